//! What a start makes of the directories of the life before: the truth is on the disk, and each payload gets exactly one
//! outcome. What had ended is as it was, what never started is queued again, what was cut off has `Failed`.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::clock::{MonotonicMs, now_ms};
use crate::data::ids::{Ids, was_earlier_here};
use crate::data::owner;
use crate::data::path::DataPath;
use crate::data::record::{self, RecordError};
use crate::data::remove::remove_tree;
use crate::data::temporary;
use crate::event;
use crate::payload::{Outcome, Payload, PayloadId, Status};
use crate::store::{Store, StoreError};
use crate::upkeep::record_writer::Records;
use crate::upkeep::retention::Remover;

/// Why a payload that ran has no result.
const CUT_OFF: &str =
    "the client was restarted while the payload ran, so it was ended and not run again; submit it anew";

/// What nobody has fetched stays so long, or MAX_AGE if that is less, in the life that finds it, whatever the times say: they may
/// be of a clock that stood in the past.
const SPARED: Duration = Duration::from_secs(3600);

/// Why a payload has no result that was answered, or is not run.
const POWER_CUT: &str =
    "the power was cut before the payload's files were on the client's disk; submit it again";

/// What the life before has left, read and not touched yet.
#[derive(Debug, Default)]
pub struct Found {
    /// What had ended, and what waits.
    payloads: Vec<Payload>,
    /// What ran.
    cut_off: Vec<Payload>,
    /// What was answered, and was not on the disk when the power was cut.
    lost: Vec<Payload>,
    /// Directories whose records were not.
    unknown_since_cut: Vec<PathBuf>,
    /// Directories without a record whose payload was never started: halves of uploads, and what is left of cleaned payloads.
    unknown: Vec<PathBuf>,
    /// How many of the leftovers have lost their record.
    without_record: u32,
    /// Directories that no row knows; they go by age.
    leftovers: Vec<PathBuf>,
    /// Directories that have their record in them still, as version 0.1.0 left it.
    earlier: Vec<PathBuf>,
    /// Records of that kind are left for a start that takes them up.
    has_earlier: bool,
    /// Something may still run there.
    may_have_strays: bool,
}

/// Reads all records. Call with DATA_PATH locked: nobody but processes of the life before can be at work there. Writes,
/// removes and ends nothing, so that a start that fails later has changed nothing.
pub fn find(data_path: &DataPath) -> io::Result<Found> {
    let shelf = data_path.shelf();
    let mut found = Found::default();
    let mut ids = HashSet::new();
    let mut directories: BTreeSet<PathBuf> = data_path.directories()?.into_iter().collect();
    for directory in shelf.directories()? {
        directories.remove(&directory);
        found.sort_in(shelf.load(&directory), directory, &mut ids, shelf.is_after_cut());
    }
    // What payloads may have made up is not believed, so only where version 0.1.0 has been at work since.
    let has_earlier = has_earlier(data_path)?;
    for directory in directories {
        let loaded = if has_earlier { record::load_earlier(&directory) } else { Err(RecordError::Missing) };
        if matches!(loaded, Err(RecordError::Missing)) && record::has_traces(&directory) {
            found.without_record += 1;
            found.leftovers.push(directory);
            continue;
        }
        if loaded.is_ok() {
            found.earlier.push(directory.clone());
        }
        found.sort_in(loaded, directory, &mut ids, false);
    }
    found.may_have_strays = !found.cut_off.is_empty();
    Ok(found)
}

/// For a start that takes nothing up: what is there goes by age, and nothing of it runs on.
pub fn find_leftovers(data_path: &DataPath) -> io::Result<Found> {
    let mut leftovers = data_path.directories()?;
    // Also where a payload has put a link in the place of its directory.
    leftovers.extend(data_path.shelf().directories()?);
    leftovers.sort_unstable();
    leftovers.dedup();
    let has_earlier = !leftovers.is_empty() && has_earlier(data_path)?;
    Ok(Found { may_have_strays: !leftovers.is_empty(), leftovers, has_earlier, ..Found::default() })
}

/// Whether version 0.1.0 may have left records in the directories of payloads that no start has taken up.
fn has_earlier(data_path: &DataPath) -> io::Result<bool> {
    Ok(!data_path.shelf().is_settled() || was_earlier_here(&data_path.lock_file())?)
}

impl Found {
    fn sort_in(
        &mut self,
        loaded: Result<Payload, RecordError>,
        directory: PathBuf,
        ids: &mut HashSet<PayloadId>,
        is_after_cut: bool,
    ) {
        match loaded {
            Ok(payload) if !ids.insert(payload.id) => {
                event!(
                    Error,
                    "two directories have one payload",
                    payload = payload.id,
                    directory = payload.loc.display()
                );
                self.leftovers.push(directory);
            }
            Ok(payload) if payload.status != Status::Prepared && payload.finished_at.is_none() => {
                self.cut_off.push(payload);
            }
            Ok(payload) => self.payloads.push(payload),
            Err(RecordError::NotOnDisk(payload)) => self.lost.push(*payload),
            Err(RecordError::Damaged(_)) if is_after_cut => self.unknown_since_cut.push(directory),
            Err(RecordError::Missing) => self.unknown.push(directory),
            Err(error) => {
                event!(
                    Error,
                    "payload cannot be taken up",
                    directory = directory.display(),
                    error = error.to_string()
                );
                self.leftovers.push(directory);
            }
        }
    }

    /// The highest id that is known.
    pub fn highest_id(&self) -> Option<PayloadId> {
        self.payloads.iter().chain(&self.cut_off).chain(&self.lost).map(|payload| payload.id).max()
    }

    /// Takes all up into the empty store, before the first payload comes in. `end_strays` ends the processes of the life before.
    /// Gives the directories that no row knows.
    pub fn take_up(
        self,
        store: &Store,
        max_age: Duration,
        ids: &Ids,
        records: &Records,
        remover: &Remover,
        end_strays: impl Fn(&Path),
    ) -> Result<Vec<PathBuf>, StoreError> {
        let data_path = records.data_path();
        let mut counts = Counts::default();
        let oldest = max_age.saturating_sub(max_age.min(SPARED));
        let oldest = MonotonicMs::try_from(oldest.as_millis()).unwrap_or(MonotonicMs::MAX);
        let now = now_ms();
        // What waits may have been given to its user too, just before its start.
        let mut waiting = Vec::new();
        for mut payload in self.payloads {
            counts.count(&payload);
            if payload.finished_at.is_none() {
                waiting.push(payload.loc.clone());
            }
            // By a clock that was ahead: it ages from now on, in later lives too.
            let is_of_the_future = payload.finished_at.is_some_and(|at| at > now);
            if is_of_the_future {
                payload.finished_at = Some(now);
            }
            store.restore(&payload, oldest)?;
            if is_of_the_future {
                records.note_soon(payload.id);
            }
        }
        for directory in &self.unknown {
            counts.without_record += 1;
            event!(
                Info,
                "a directory without a record is removed: half of an upload, or the rest of a cleaned payload",
                directory = directory.display()
            );
            remover.remove(directory);
        }
        if self.without_record > 0 {
            counts.without_record += self.without_record;
            event!(
                Warn,
                "directories of payloads that were started have no record",
                meaning = "the client's own place in DATA_PATH (.orchestrator) was removed or replaced; their ids are unknown, and \
                           they are kept until MAX_AGE after their last change",
                directories = self.without_record,
                data_path = data_path.path().display()
            );
        }
        for directory in &self.unknown_since_cut {
            event!(
                Warn,
                "a payload is lost: the power was cut before its record was on the disk; its directory is removed",
                directory = directory.display()
            );
            remover.remove(directory);
        }
        if self.may_have_strays {
            end_strays(data_path.path());
        }
        let cut_off = self.cut_off.iter().chain(&self.lost).map(|payload| &payload.loc);
        for directory in waiting.iter().chain(cut_off).chain(&self.leftovers) {
            take_back(directory);
        }
        // Nobody is left who could use them. An error is one of the disk, on which payloads wait.
        if let Err(error) = temporary::remove_all(data_path.path()) {
            event!(
                Warn,
                "cannot remove the temporary files of the life before; the next start does it",
                error = error
            );
        }
        for payload in self.cut_off {
            counts.count(&end(store, payload, records, CUT_OFF)?);
        }
        for payload in self.lost {
            // What is there of its files is not what they were.
            let directory = payload.loc.clone();
            counts.count(&end(store, payload, records, POWER_CUT)?);
            if let Err(error) = remove_tree(&directory) {
                event!(Error, "cannot remove a directory", directory = directory.display(), error = error);
            }
        }
        let moved = move_in(store, &self.earlier, records);
        if let Err(error) = moved.and_then(|()| {
            if self.has_earlier {
                return data_path.shelf().make();
            }
            data_path.shelf().settle()?;
            ids.forget_earlier()
        }) {
            event!(Error, "cannot note what was taken up; the next start does it again", error = error);
        } else if let Err(error) = data_path.shelf().note_boot() {
            event!(
                Error,
                "cannot note the start of the machine; the next start does it again",
                error = error
            );
        }
        if counts != Counts::default() {
            counts.tell();
        }
        Ok(self.leftovers)
    }
}

/// Takes back what a payload of the life before had as a user of its own, none of whose processes is left.
fn take_back(directory: &Path) {
    match owner::take_back(directory) {
        Ok(returned) if returned.foreign > 0 => event!(
            Warn,
            "links to files of other users were in a payload's directory; they are removed, and the files are not",
            directory = directory.display(),
            links = returned.foreign
        ),
        // Gone, or something else by now.
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {}
        Err(error) => event!(
            Error,
            "a payload's directory cannot be taken back from its user",
            directory = directory.display(),
            error = error
        ),
    }
}

/// Brings the records that version 0.1.0 left to where they are now.
fn move_in(store: &Store, earlier: &[PathBuf], records: &Records) -> io::Result<()> {
    for directory in earlier {
        // Those that were noted with their end have been moved already.
        if let Ok(payload) = record::load_earlier(directory)
            && store.get(payload.id).is_ok_and(|known| known.is_some())
        {
            records.note(payload.id)?;
            record::forget_earlier(directory)?;
        }
    }
    Ok(())
}

/// Who was being killed is `Killed`, all others `Failed`. Told once it is noted.
fn end(store: &Store, payload: Payload, records: &Records, reason: &str) -> Result<Payload, StoreError> {
    // Whatever had been told of it: its first reason too, unless that is a kill's.
    let error = payload.error.clone().filter(|_| payload.killed);
    let payload = Payload { error, ..payload }.ended(&Outcome::not_started(Status::Failed, reason));
    event!(
        Warn,
        "payload was cut off by the restart",
        payload = payload.id,
        status = payload.unnoted.unwrap_or(payload.status).to_string(),
        reason = reason
    );
    store.restore(&payload, MonotonicMs::MAX)?;
    if let Err(error) = records.note(payload.id) {
        event!(Error, "cannot write the record", payload = payload.id, error = error);
    }
    Ok(payload)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    waiting: u32,
    ended: u32,
    without_record: u32,
}

impl Counts {
    fn count(&mut self, payload: &Payload) {
        if payload.finished_at.is_none() {
            self.waiting += 1;
        } else {
            self.ended += 1;
        }
    }

    fn tell(&self) {
        event!(
            Info,
            "payloads of the life before taken up",
            waiting = self.waiting,
            ended = self.ended,
            without_record = self.without_record,
        );
    }
}
