//! Writes the records of payloads that are known to the store, and writes those again, until it works, that the disk did not
//! take: what this life has told is then known to the next one too, if the disk came back before.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use crate::data::path::DataPath;
use crate::data::record::{self, Durability};
use crate::event;
use crate::payload::Payload;
use crate::payload::{PayloadId, Status};
use crate::store::Store;

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
    durability: Durability,
    /// Held for reading while a record is written, for writing while an owed one is: of two states of a payload the newer
    /// one is written last.
    turn: RwLock<()>,
    /// The payloads whose record is older than their state.
    owed: Mutex<BTreeSet<PayloadId>>,
    wake: Condvar,
}

impl Records {
    /// Starts the thread that writes what is owed.
    pub fn start(store: Store, data_path: DataPath, durability: Durability) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            store,
            data_path,
            durability,
            turn: RwLock::default(),
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

    /// Writes the record of a payload. After an error it is owed: the state that the store has is written as soon as the disk
    /// takes it.
    pub fn save(&self, payload: &Payload) -> io::Result<()> {
        let turn = self.shared.turn.read().unwrap_or_else(PoisonError::into_inner);
        let saved = record::save(payload, self.shared.durability);
        let mut owed = self.shared.owed();
        match &saved {
            Ok(()) => drop(owed.remove(&payload.id)),
            Err(error) => {
                owed.insert(payload.id);
                self.shared.wake.notify_one();
                self.shared.data_path.suspect(error);
            }
        }
        drop((owed, turn));
        saved
    }

    /// Has the record of a payload written, as the store has it, without waiting for the disk.
    pub fn save_soon(&self, id: PayloadId) {
        self.shared.owed().insert(id);
        self.shared.wake.notify_one();
    }
}

impl Shared {
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
        let turn = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        if !self.owed().contains(&id) {
            return true;
        }
        let is_settled = match self.store.get(id) {
            Ok(Some(payload)) if payload.status != Status::Cleaned => {
                record::save(&payload, self.durability).is_ok()
            }
            // Its directory goes, or is gone.
            Ok(_) => true,
            Err(_) => false,
        };
        if is_settled {
            self.owed().remove(&id);
        }
        drop(turn);
        is_settled
    }
}
