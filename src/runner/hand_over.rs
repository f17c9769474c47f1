//! What changes hands where payloads run as users of their own: their files to them before the start, and back after the end.
//! Where they do not, nothing here does anything. All of it may wait for the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::data::owner;
use crate::data::shared_places;
use crate::data::temporary;
use crate::event;
use crate::payload::PayloadId;
use crate::sandbox::users::Users;

/// Who payloads run as; cheap to clone.
#[derive(Clone)]
pub(super) struct HandOver {
    users: Option<Arc<Users>>,
    /// Directories that the disk has not let be taken back.
    owed: Arc<Mutex<Vec<Owed>>>,
}

struct Owed {
    payload: PayloadId,
    directory: PathBuf,
}

impl HandOver {
    pub(super) fn new(users: Option<Arc<Users>>) -> Self {
        Self { users, owed: Arc::default() }
    }

    /// Whether payloads run as users of their own.
    pub(super) fn is_needed(&self) -> bool {
        self.users.is_some()
    }

    /// The user of the payload in a slot; `None` for that of the client.
    pub(super) fn user_of(&self, slot: usize) -> Option<u32> {
        self.users.as_ref().map(|users| users.of_slot(slot))
    }

    /// Gives the directory of a payload that has never run to the user of its slot, and that for its temporary files. Not before all is
    /// taken back that is owed: the user may be the same.
    pub(super) fn give(&self, directory: &Path, slot: usize) -> io::Result<()> {
        let Some(user) = self.user_of(slot) else { return Ok(()) };
        self.take_back_owed()?;
        temporary::give(directory, user)?;
        owner::give(directory, user)
    }

    /// Before the slot is given to another payload, of the same user: closes the directory of this one, and removes what it has left
    /// elsewhere.
    pub(super) fn close(&self, payload: PayloadId, directory: &Path, slot: usize) {
        let Some(user) = self.user_of(slot) else { return };
        for directory in [directory, &temporary::path_of(directory)] {
            self.owe_failed(payload, directory, owner::close(directory));
        }
        match shared_places::remove_of(user) {
            Ok(0) => {}
            Ok(number) => {
                event!(
                    Info,
                    "what the payload left in /tmp and the like is removed",
                    payload = payload,
                    number = number
                );
            }
            Err(error) => event!(
                Warn,
                "not all that the payload left in /tmp and the like can be removed",
                payload = payload,
                error = error
            ),
        }
    }

    /// Takes the directory of a payload back of which no process is left.
    pub(super) fn take_back(&self, payload: PayloadId, directory: &Path) {
        if self.is_needed() {
            self.owe_failed(payload, directory, take_back(payload, directory));
        }
    }

    fn take_back_owed(&self) -> io::Result<()> {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Owed { payload, directory }) = owed.last() {
            match take_back(*payload, directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // Or it is gone, with the disk there.
                _ => drop(owed.pop()),
            }
        }
        Ok(())
    }

    fn owe_failed(&self, payload: PayloadId, directory: &Path, result: io::Result<()>) {
        let Err(error) = result else { return };
        // What is gone is nobody's; but it may be the disk that is away.
        if error.kind() != io::ErrorKind::NotFound {
            event!(
                Warn,
                "a payload's directory cannot be taken back from its user",
                meaning = "no payload is started before it is",
                payload = payload,
                directory = directory.display(),
                error = error
            );
        }
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        if owed.iter().all(|owed| owed.directory != directory) {
            owed.push(Owed { payload, directory: directory.to_owned() });
        }
    }
}

fn take_back(payload: PayloadId, directory: &Path) -> io::Result<()> {
    let returned = owner::take_back(directory)?;
    if returned.foreign > 0 {
        event!(
            Warn,
            "links to files of other users were in the payload's directory; they are removed, and the files are not",
            payload = payload,
            links = returned.foreign
        );
    }
    Ok(())
}
