//! What comes before a start: a waiting payload is claimed as soon as a slot is free, its start noted, its logs created.
//! All of that may wait for a disk that hangs, so none of it is the runner's own work.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Event;
use super::end::Ends;
use super::inbox::Sender;
use super::start::{Launcher, StartError, Streams};
use crate::event;
use crate::payload::{Payload, PayloadId};

/// Makes payloads ready to be started; cheap to clone.
#[derive(Clone)]
pub(super) struct Starter {
    ends: Ends,
    launcher: Arc<Launcher>,
    slots: Arc<Mutex<Slots>>,
    ready: Sender<Event>,
}

struct Slots {
    total: usize,
    taken: usize,
    is_closed: bool,
}

/// A payload that holds a slot and lacks nothing but its process.
pub(super) struct Ready {
    pub(super) id: PayloadId,
    pub(super) directory: Arc<Path>,
    pub(super) streams: Streams,
}

impl Starter {
    /// `ready` is told of each payload that may be started.
    pub(super) fn new(ends: Ends, launcher: Arc<Launcher>, slots: usize, ready: Sender<Event>) -> Self {
        let slots = Arc::new(Mutex::new(Slots { total: slots, taken: 0, is_closed: false }));
        Self { ends, launcher, slots, ready }
    }

    /// Makes waiting payloads ready as long as a slot is free. May wait for the disk.
    pub(super) fn fill_slots(&self) {
        while let Some(payload) = self.claim() {
            match self.prepare(&payload) {
                Ok(ready) => self.ready.send(Event::Start(ready)),
                Err(error) => {
                    self.ends.note(payload.id, &error.outcome());
                    self.free_slot();
                    self.ready.wake();
                }
            }
        }
    }

    /// A payload that held a slot is over.
    pub(super) fn free_slot(&self) {
        self.slots().taken -= 1;
    }

    /// From here on nothing more is claimed.
    pub(super) fn close(&self) {
        self.slots().is_closed = true;
    }

    /// Whether anything may still be claimed.
    pub(super) fn is_closed(&self) -> bool {
        self.slots().is_closed
    }

    /// Whether nothing runs or is about to.
    pub(super) fn is_idle(&self) -> bool {
        self.slots().taken == 0
    }

    /// The lock is held over the claim: who finds no slot can rely on it that the one who has the last one looks again.
    fn claim(&self) -> Option<Payload> {
        let mut slots = self.slots();
        if slots.is_closed || slots.taken == slots.total {
            return None;
        }
        let claimed = self.ends.store.claim();
        let claimed = claimed.inspect_err(|error| {
            event!(Error, "cannot claim a payload", error = error.to_string());
        });
        let payload = claimed.ok().flatten()?;
        slots.taken += 1;
        Some(payload)
    }

    fn prepare(&self, payload: &Payload) -> Result<Ready, StartError> {
        let directory: Arc<Path> = Path::new(&payload.loc).into();
        // Before the start: whatever happens from here on, no later life runs it again.
        self.ends.records.note(payload.id).map_err(StartError::Record)?;
        let streams = self.launcher.open_streams(payload.id, &directory)?;
        Ok(Ready { id: payload.id, directory, streams })
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
