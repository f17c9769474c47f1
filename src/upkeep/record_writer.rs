//! Writes the records of payloads that are known to the store, and writes those again, until it works, that the disk did not
//! take: what this life has told is then known to the next one too, if the disk came back before.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::data::path::DataPath;
use crate::data::record::{Durability, Shelf};
use crate::event;
use crate::payload::{Outcome, Payload, PayloadId, Status};
use crate::store::{Store, StoreError};

/// Pause between two attempts: the first one, and the longest. Nothing is tried while nothing is owed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

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
    /// The payloads whose record is older than their state.
    owed: Mutex<BTreeSet<PayloadId>>,
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
        thread::Builder::new().name("records".to_owned()).spawn(move || shared.settle())?;
        Ok(this)
    }

    /// What a record must withstand.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// Writes the first record of a payload that the store does not have yet. After an error nothing is owed, nothing was taken.
    pub fn note_first(&self, payload: &Payload) -> io::Result<()> {
        self.shared.shelf.save(payload, self.shared.durability)
    }

    /// Writes the record of a payload as the store has it; a kill is told from then on. After an error the record is owed: it is
    /// written as soon as the disk takes it.
    pub fn note(&self, id: PayloadId) -> io::Result<()> {
        let turn = self.shared.turn(id);
        let noted = self.shared.note(id);
        drop(turn);
        noted
    }

    /// Writes the record of a payload, as the store has it, without waiting for the disk.
    pub fn note_soon(&self, id: PayloadId) {
        self.shared.owe(id);
    }

    /// Notes the end of a payload: on the disk first, so that no end is told that a restart would take back, then in the store.
    /// Where the disk does not take it, which the log tells, the end stands all the same, and is owed: it is only the next life that
    /// will not know it, if that comes before the disk. Gives the payload as it is then; `None` if it had an end already.
    pub fn end(&self, id: PayloadId, outcome: &Outcome) -> Result<Option<Payload>, StoreError> {
        let shared = &self.shared;
        let _turn = shared.turn(id);
        let Some(payload) = shared.store.get(id)?.filter(|payload| payload.finished_at.is_none()) else {
            return Ok(None);
        };
        let ended = payload.ended(outcome);
        let saved = shared.save(&ended);
        if let Err(error) = &saved
            && !shared.has_removed_itself(&ended)
        {
            event!(Error, "cannot write the record", payload = id, error = *error);
        }
        let finished = shared.store.finish(&ended, saved.is_ok())?;
        match finished {
            // A kill has come in between.
            Some(finished) if finished.is_kill_untold() && saved.is_ok() => {
                // What fails is owed.
                let _ = shared.note(id);
                Ok(shared.store.get(id)?.map(|payload| *payload))
            }
            finished => Ok(finished),
        }
    }
}

impl Shared {
    fn turn(&self, id: PayloadId) -> MutexGuard<'_, ()> {
        let index = usize::try_from(id).unwrap_or(0) % TURNS;
        self.turns[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owe(&self, id: PayloadId) {
        self.owed().insert(id);
        self.wake.notify_one();
    }

    /// In the payload's turn.
    fn note(&self, id: PayloadId) -> io::Result<()> {
        // Before the look: what changes after it is owed anew.
        self.owed().remove(&id);
        let payload = match self.store.get(id) {
            Ok(Some(payload)) if payload.status != Status::Cleaned => payload,
            // Its directory goes, or is gone.
            Ok(_) => return Ok(()),
            Err(error) => {
                self.owe(id);
                return Err(io::Error::other(error));
            }
        };
        self.save(&payload)?;
        if payload.is_kill_untold() {
            self.store.confirm_kill(id).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Whether a payload has removed its directory, and its record with it.
    fn has_removed_itself(&self, payload: &Payload) -> bool {
        !Path::new(&payload.loc).exists() && self.data_path.path().exists()
    }

    /// In the payload's turn.
    fn save(&self, payload: &Payload) -> io::Result<()> {
        self.shelf.save(payload, self.durability).inspect_err(|error| {
            self.owe(payload.id);
            self.data_path.suspect(error);
        })
    }

    fn owed(&self) -> MutexGuard<'_, BTreeSet<PayloadId>> {
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
            let ids = owed.clone();
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
            } else if owed.iter().all(|id| failed.contains(id)) {
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
        !self.owed().contains(&id) || self.note(id).is_ok()
    }
}
