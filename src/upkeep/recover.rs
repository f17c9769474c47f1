//! What a start makes of the directories of the life before: the truth is on the disk, and each payload gets exactly one
//! outcome. What had ended is as it was, what never started is queued again, what was cut off has `Failed`.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::data::path::DataPath;
use crate::data::record::{self, RecordError};
use crate::event;
use crate::payload::{Outcome, Payload, PayloadId, Status};
use crate::store::{Store, StoreError};
use crate::upkeep::record_writer::Records;
use crate::upkeep::retention::Remover;

/// Why a payload that ran has no result.
const CUT_OFF: &str =
    "the client was restarted while the payload ran, so it was ended and not run again; submit it anew";

/// What the life before has left, read and not touched yet.
#[derive(Debug, Default)]
pub struct Found {
    /// What had ended, and what waits.
    payloads: Vec<Payload>,
    /// What ran.
    cut_off: Vec<Payload>,
    /// Uploads that never came to their end.
    unfinished: Vec<PathBuf>,
    /// Directories that no row knows; they go by age.
    leftovers: Vec<PathBuf>,
    /// Something may still run there.
    may_have_strays: bool,
}

/// Reads all records. Call with DATA_PATH locked: nobody but processes of the life before can be at work there. Writes,
/// removes and ends nothing, so that a start that fails later has changed nothing.
pub fn find(data_path: &DataPath) -> io::Result<Found> {
    let mut found = Found::default();
    let mut ids = HashSet::new();
    for directory in data_path.directories()? {
        match record::load(&directory) {
            Ok(payload) if !ids.insert(payload.id) => {
                event!(
                    Error,
                    "two directories have one payload",
                    payload = payload.id,
                    directory = payload.loc
                );
                found.leftovers.push(directory);
            }
            Ok(payload) if payload.status != Status::Prepared && payload.finished_at.is_none() => {
                found.cut_off.push(payload);
            }
            Ok(payload) => found.payloads.push(payload),
            Err(RecordError::Missing) => found.unfinished.push(directory),
            Err(error) => {
                event!(
                    Error,
                    "payload cannot be taken up",
                    directory = directory.display(),
                    error = error.to_string()
                );
                found.leftovers.push(directory);
            }
        }
    }
    found.may_have_strays = !found.cut_off.is_empty();
    Ok(found)
}

/// For a start that takes nothing up: what is there goes by age, and nothing of it runs on.
pub fn find_leftovers(data_path: &DataPath) -> io::Result<Found> {
    let leftovers = data_path.directories()?;
    Ok(Found { may_have_strays: !leftovers.is_empty(), leftovers, ..Found::default() })
}

impl Found {
    /// The highest id that is known.
    pub fn highest_id(&self) -> Option<PayloadId> {
        self.payloads.iter().chain(&self.cut_off).map(|payload| payload.id).max()
    }

    /// Takes all up into the empty store, before the first payload comes in. `end_strays` ends the processes of the life before.
    /// Gives the directories that no row knows.
    pub fn take_up(
        self,
        store: &Store,
        data_path: &DataPath,
        records: &Records,
        remover: &Remover,
        end_strays: fn(&Path),
    ) -> Result<Vec<PathBuf>, StoreError> {
        let mut counts = Counts::default();
        for payload in self.payloads {
            counts.count(&payload);
            store.restore(&payload)?;
        }
        for directory in &self.unfinished {
            counts.unfinished_uploads += 1;
            event!(Info, "half-received upload is removed", directory = directory.display());
            remover.remove(directory);
        }
        if self.may_have_strays {
            end_strays(data_path.path());
        }
        for payload in self.cut_off {
            counts.count(&end(store, payload, records)?);
        }
        if counts != Counts::default() {
            counts.tell();
        }
        Ok(self.leftovers)
    }
}

/// Who was being killed is `Killed`, all others `Failed`.
fn end(store: &Store, payload: Payload, records: &Records) -> Result<Payload, StoreError> {
    let payload = payload.ended(&Outcome::not_started(Status::Failed, CUT_OFF));
    event!(
        Warn,
        "payload was cut off by the restart",
        payload = payload.id,
        status = payload.status.to_string()
    );
    store.restore(&payload)?;
    if let Err(error) = records.note(payload.id) {
        event!(Error, "cannot write the record", payload = payload.id, error = error);
    }
    Ok(payload)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    waiting: u32,
    ended: u32,
    unfinished_uploads: u32,
}

impl Counts {
    fn count(&mut self, payload: &Payload) {
        match payload.status {
            Status::Prepared => self.waiting += 1,
            _ => self.ended += 1,
        }
    }

    fn tell(&self) {
        event!(
            Info,
            "payloads of the life before taken up",
            waiting = self.waiting,
            ended = self.ended,
            unfinished_uploads = self.unfinished_uploads,
        );
    }
}
