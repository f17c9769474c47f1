//! Writes the records of payloads that are known to the store, and writes those again, until it works, that the disk did not
//! take: what this life has told is then known to the next one too, if the disk came back before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::data::disk_error::is_full;
use crate::data::exit_file::{self, EXIT_FILE, FULL};
use crate::data::path::DataPath;
use crate::data::record::{Durability, FileSystem, Shelf};
use crate::event;
use crate::payload::{Outcome, Payload, PayloadId, Status};
use crate::store::{Store, StoreError};

/// Pause between two attempts: the first one, and the longest. Nothing is tried while nothing is owed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Writes records; cheap to clone.
#[derive(Clone)]
pub struct Records {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    data_path: DataPath,
    shelf: Shelf,
    durability: Durability,
    /// Held while the record of a payload is written, of those whose number leaves this rest: of two states of a payload the newer
    /// one is written last.
    turns: [Mutex<()>; TURNS],
    /// The payloads whose record is older than their state; whether it is being written since.
    owed: Mutex<BTreeMap<PayloadId, bool>>,
    wake: Condvar,
}

/// So many payloads are written at once without waiting for each other.
const TURNS: usize = 64;

impl Records {
    /// Starts the thread that writes what is owed.
    pub fn start(store: Store, data_path: DataPath, durability: Durability) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            store,
            shelf: data_path.shelf(),
            data_path,
            durability,
            turns: std::array::from_fn(|_| Mutex::default()),
            owed: Mutex::default(),
            wake: Condvar::new(),
        });
        let this = Self { shared: Arc::clone(&shared) };
        let all = Arc::clone(&shared);
        shared.shelf.when_anew(move || all.owe_all().map_err(io::Error::other));
        thread::Builder::new().name("records".to_owned()).spawn(move || shared.settle())?;
        Ok(this)
    }

    /// What a record must withstand.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// DATA_PATH.
    pub fn data_path(&self) -> &DataPath {
        &self.shared.data_path
    }

    /// Writes the first record of a payload that the store does not have yet. After an error nothing is owed, nothing was taken.
    pub fn note_first(&self, payload: &Payload) -> io::Result<()> {
        self.shared.shelf.save(payload, self.shared.durability)
    }

    /// Writes the record of a payload as the store has it; a kill or an end is told from then on. After an error the record is owed: it is
    /// written as soon as the disk takes it.
    pub fn note(&self, id: PayloadId) -> io::Result<()> {
        let turn = self.shared.turn(id);
        let noted = self.shared.note(id);
        drop(turn);
        noted.map(drop)
    }

    /// Writes the record of a payload, as the store has it, without waiting for the disk.
    pub fn note_soon(&self, id: PayloadId) {
        self.shared.owe(id);
    }

    /// The payloads whose record the disk has yet to take.
    pub fn owed_ids(&self) -> Vec<PayloadId> {
        self.shared.owed().keys().copied().collect()
    }

    /// Tries all that is owed once. May wait for the disk.
    pub fn try_owed(&self) {
        for id in self.owed_ids() {
            self.shared.try_again(id);
        }
    }

    /// Notes the end of a payload: nobody is told of it before it is on the disk, with its exit file. Where the disk does not take it,
    /// which the log tells, it is owed, and told when that works. `before` is what the disk has to do first; while that hangs the end is
    /// known already, and told as one that is not noted. Gives the payload as it is then; `None` if it had an end already.
    pub fn end(
        &self,
        id: PayloadId,
        outcome: &Outcome,
        before: impl FnOnce(),
    ) -> Result<Option<Payload>, StoreError> {
        let shared = &self.shared;
        // Not in its turn: a note before this one may hang.
        let is_its_end = shared.store.finish(id, outcome);
        before();
        if !is_its_end? {
            return Ok(None);
        }
        let turn = shared.turn(id);
        let noted = shared.note(id);
        drop(turn);
        match noted {
            Ok(noted) => Ok(noted),
            Err(error) => {
                event!(
                    Error,
                    "an end cannot be noted yet; it is told when it is",
                    payload = id,
                    error = error
                );
                Ok(shared.store.get(id)?.map(|payload| *payload))
            }
        }
    }
}

impl Shared {
    fn turn(&self, id: PayloadId) -> MutexGuard<'_, ()> {
        let index = usize::try_from(id).unwrap_or(0) % TURNS;
        self.turns[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owe(&self, id: PayloadId) {
        self.owed().insert(id, false);
        self.wake.notify_one();
    }

    /// All that is known is owed to a place that has nothing of it.
    fn owe_all(&self) -> Result<(), StoreError> {
        for id in self.store.known()? {
            self.owe(id);
        }
        Ok(())
    }

    /// In the payload's turn. Gives what is on the disk then; `None` if the payload is cleaned. What fails is owed.
    fn note(&self, id: PayloadId) -> io::Result<Option<Payload>> {
        // Before the look: what changes after it is owed anew.
        self.owed().entry(id).and_modify(|is_under_way| *is_under_way = true);
        let noted = self.try_to_note(id);
        match &noted {
            Ok(_) => {
                let mut owed = self.owed();
                if owed.get(&id) == Some(&true) {
                    owed.remove(&id);
                }
            }
            Err(error) => {
                self.owe(id);
                self.data_path.suspect(error);
                // In memory: it fails with the look before it, which has been told.
                let _ = self.store.refuse(id);
            }
        }
        noted
    }

    fn try_to_note(&self, id: PayloadId) -> io::Result<Option<Payload>> {
        let payload = match self.store.get(id).map_err(io::Error::other)? {
            Some(payload) if payload.status != Status::Cleaned => self.keep_results(*payload)?,
            // Its directory goes, or is gone.
            _ => return Ok(None),
        };
        self.shelf.save(&payload, self.durability)?;
        if payload.unnoted.is_some() {
            self.store.confirm(&payload).map_err(io::Error::other)?;
        }
        Ok(Some(payload.noted()))
    }

    /// What is to be on the disk before an end is noted: its exit file, and where that was asked for all results. Gives the payload,
    /// with what its disk has to do with its end.
    fn keep_results(&self, payload: Payload) -> io::Result<Payload> {
        let (Some(code), true) = (payload.shell_code(), payload.is_end_unnoted()) else { return Ok(payload) };
        let directory = payload.loc.clone();
        let written = self.write_exit_file(&payload, &directory, code);
        let payload = self.explain(payload, &directory, written.as_ref().err())?;
        let is_written = match written {
            // It may have filled it itself, and who makes room has to have its result: that has the exit code by its record.
            Err(error) if is_full(&error) => {
                tell_unwritten(payload.id, &error);
                false
            }
            other => other.map_err(|error| {
                io::Error::new(error.kind(), format!("cannot write {EXIT_FILE}: {error}"))
            })?,
        };
        if self.durability == Durability::Power {
            // What is in the place of its directory otherwise is not looked at.
            let synced = if is_written { &*directory } else { self.data_path.path() };
            FileSystem::of(synced)?.sync()?;
        }
        Ok(payload)
    }

    /// Gives whether it is written: not so where the payload itself has seen to that.
    fn write_exit_file(&self, payload: &Payload, directory: &Path, code: i32) -> io::Result<bool> {
        match exit_file::write(directory, code) {
            Err(error) if exit_file::may_be_of_payload(&error) => {}
            other => return other.map(|()| true),
        }
        if let Some(trouble) = self.data_path.trouble_now() {
            return Err(io::Error::other(trouble));
        }
        // DATA_PATH may just have come back.
        match exit_file::write(directory, code) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                event!(Info, "the directory of a payload is gone at its end", payload = payload.id);
                Ok(false)
            }
            Err(error) if exit_file::may_be_of_payload(&error) => {
                tell_unwritten(payload.id, &error);
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// Says so, once, where a payload has failed with its disk full.
    fn explain(&self, payload: Payload, directory: &Path, failed: Option<&io::Error>) -> io::Result<Payload> {
        let is_said = payload.error.as_ref().is_some_and(|error| error.contains(FULL));
        if payload.unnoted != Some(Status::Failed) || is_said {
            return Ok(payload);
        }
        match exit_file::full_disk(directory, failed) {
            Some(reason) => self.store.add_reason(payload.id, &reason).map_err(io::Error::other),
            None => Ok(payload),
        }
    }

    fn owed(&self) -> MutexGuard<'_, BTreeMap<PayloadId, bool>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self) {
        let mut pause = FIRST_PAUSE;
        // Those that were tried before, in vain.
        let mut failed = BTreeSet::new();
        loop {
            let mut owed = self.owed();
            while owed.is_empty() {
                owed = self.wake.wait(owed).unwrap_or_else(PoisonError::into_inner);
            }
            let ids: BTreeSet<PayloadId> = owed.keys().copied().collect();
            drop(owed);
            failed.retain(|id| ids.contains(id));
            for id in ids {
                if self.try_again(id) {
                    if failed.remove(&id) {
                        event!(
                            Info,
                            "the record is owed no longer: the disk has taken it, or the payload is cleaned",
                            payload = id
                        );
                    }
                } else {
                    failed.insert(id);
                }
            }
            let owed = self.owed();
            if owed.is_empty() {
                pause = FIRST_PAUSE;
            } else if owed.keys().all(|id| failed.contains(id)) {
                // Woken by what is new; the pause before the next attempt is as long as it may be for the others.
                let woken = self.wake.wait_timeout(owed, pause).unwrap_or_else(PoisonError::into_inner);
                pause = if woken.1.timed_out() { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            }
        }
    }

    /// Gives whether the record is not owed any longer.
    fn try_again(&self, id: PayloadId) -> bool {
        let _turn = self.turn(id);
        // Somebody else may have been faster.
        !self.owed().contains_key(&id) || self.note(id).is_ok()
    }
}

/// The result goes without the file, and its keeper is told.
fn tell_unwritten(id: PayloadId, error: &io::Error) {
    event!(Warn, "cannot write the exit code", payload = id, file = EXIT_FILE, error = *error);
}
