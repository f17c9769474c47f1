//! Payload ids that no life of the client gives twice. A mark in DATA_PATH says below which number ids may have been given;
//! it is moved up by blocks, before the first id of a block is given, so that counting costs no write.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};

use crate::data::path::LockFile;
use crate::data::slots;
use crate::payload::{LAST_ID, PayloadId};

/// The first id of a DATA_PATH is drawn below this, so that half of the range is left to count up in, and a client with a
/// new DATA_PATH (a container without a volume) does not give the ids that the one before it gave.
const FIRST_ID_BELOW: u32 = 1 << 30;

/// A crash loses at most so many numbers.
const BLOCK: u32 = 1024;

/// The mark has two places of a sector each, of which one is written in turn: a power cut leaves one of them.
const PLACE_BYTES: usize = 512;

/// The mark of version 0.1.0: ten digits and a line end.
const EARLIER_BYTES: usize = 11;

/// Why no id was given.
#[derive(Debug, thiserror::Error)]
pub enum IdError {
    /// All are given.
    #[error("all payload ids are used up; give the client a new DATA_PATH")]
    UsedUp,
    /// The next block could not be reserved.
    #[error("the mark of the payload ids cannot be written: {0}")]
    Mark(#[source] io::Error),
}

/// Gives ids; cheap to clone.
#[derive(Clone)]
pub struct Ids {
    inner: Arc<Mutex<Inner>>,
    mark: Mark,
    /// Told without a lock, which may be held by one who waits for the disk.
    are_used_up: Arc<AtomicBool>,
}

/// Writes marks, one after the other, and none that is lower than the one before: what it was. Locked after `inner`, or alone.
#[derive(Clone, Default)]
struct Mark(Arc<Mutex<PayloadId>>);

struct Inner {
    lock: LockFile,
    /// The one that has the mark.
    file: Arc<File>,
    next: PayloadId,
    /// The mark: ids from here on are not reserved yet.
    reserved_below: PayloadId,
    /// Reserves ahead.
    helper: Option<Thread>,
}

impl Ids {
    /// Goes on from the mark in the lock file, and above `highest_known` in any case. Writes nothing yet.
    pub fn open(lock: LockFile, highest_known: Option<PayloadId>) -> io::Result<Self> {
        let file = lock.current();
        let above_known = highest_known.map_or(0, |highest| highest.saturating_add(1));
        let mark = read_mark(&file)?.unwrap_or_else(|| fastrand::u32(1..FIRST_ID_BELOW));
        let next = mark.max(above_known);
        let inner = Inner { lock, file, next, reserved_below: next, helper: None };
        Ok(Self { inner: Arc::new(Mutex::new(inner)), mark: Mark::default(), are_used_up: Arc::default() })
    }

    /// The next id. May write to the disk: not for a coroutine.
    pub fn take(&self) -> Result<PayloadId, IdError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.follow(&self.mark).map_err(IdError::Mark)?;
        if inner.next > LAST_ID {
            return Err(IdError::UsedUp);
        }
        if inner.next >= inner.reserved_below {
            let mark = inner.next + BLOCK;
            self.mark.raise(&inner.file, mark).map_err(IdError::Mark)?;
            inner.reserved_below = mark;
        } else if inner.is_low()
            && let Some(helper) = &inner.helper
        {
            helper.unpark();
        }
        let id = inner.next;
        inner.next += 1;
        self.are_used_up.store(inner.next > LAST_ID, Ordering::Relaxed);
        Ok(id)
    }

    /// Has the calling thread woken when the next block should be reserved.
    pub fn wake_me_when_low(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).helper = Some(thread::current());
    }

    /// Reserves the next block if most of this one is given, so that nobody who takes an id waits for the disk.
    pub fn reserve_ahead(&self) -> io::Result<()> {
        let (file, mark) = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.follow(&self.mark)?;
            if !inner.is_low() || inner.next > LAST_ID {
                return Ok(());
            }
            (Arc::clone(&inner.file), inner.next.max(inner.reserved_below) + BLOCK)
        };
        // Without the lock: whoever finds nothing reserved meanwhile reserves as much or more.
        self.mark.raise(&file, mark)?;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&file, &inner.file) {
            inner.reserved_below = inner.reserved_below.max(mark);
        }
        Ok(())
    }

    /// Ends the trace of version 0.1.0, by which [`was_earlier_here`] tells that it gave ids: what it left has been taken up.
    pub fn forget_earlier(&self) -> io::Result<()> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // The first write goes to the place behind it where there is no other mark yet.
        for _ in 0..2 {
            if is_earlier(&read_earlier(&inner.file)?) {
                self.mark.lower(&inner.file, inner.reserved_below)?;
            }
        }
        Ok(())
    }

    /// Whether all are given.
    pub fn are_used_up(&self) -> bool {
        self.are_used_up.load(Ordering::Relaxed)
    }

    /// Gives back what is reserved and not given, at a regular end.
    pub fn close(&self) -> io::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.follow(&self.mark)?;
        if inner.next == inner.reserved_below {
            return Ok(());
        }
        // An upload that comes to its end in just this moment reserves anew.
        inner.reserved_below = inner.next;
        self.mark.lower(&inner.file, inner.next)
    }
}

impl Inner {
    /// Another disk in the place of the first has a mark of its own, or none.
    fn follow(&mut self, mark: &Mark) -> io::Result<()> {
        let file = self.lock.current();
        if !Arc::ptr_eq(&file, &self.file) {
            self.next = self.next.max(read_mark(&file)?.unwrap_or(0));
            // Nothing is reserved there.
            self.reserved_below = 0;
            mark.forget();
            self.file = file;
        }
        Ok(())
    }

    fn is_low(&self) -> bool {
        self.reserved_below.saturating_sub(self.next) < BLOCK / 2
    }
}

impl Mark {
    fn raise(&self, file: &File, mark: PayloadId) -> io::Result<()> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if mark > *last {
            write_mark(file, mark)?;
            *last = mark;
        }
        Ok(())
    }

    fn lower(&self, file: &File, mark: PayloadId) -> io::Result<()> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = mark;
        write_mark(file, mark)
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }
}

/// Whatever a power cut takes: what was given is not given again.
fn write_mark(file: &File, mark: PayloadId) -> io::Result<()> {
    let text = mark.to_string();
    match slots::write(file, text.as_bytes()) {
        Ok(()) => file.sync_data(),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            slots::begin(file, text.as_bytes(), PLACE_BYTES)?;
            // The file itself may be as new as its directory.
            Ok(rustix::fs::syncfs(file)?)
        }
        Err(error) => Err(error),
    }
}

/// Whether version 0.1.0 was the last to write a mark: what it left in the directories of payloads is to be taken up. A payload that
/// has forged such records has not forged that as well, unless it means to.
pub fn was_earlier_here(lock: &LockFile) -> io::Result<bool> {
    Ok(is_earlier(&read_earlier(&lock.current())?))
}

fn is_earlier(bytes: &[u8]) -> bool {
    parsed(bytes).is_some()
}

fn parsed(text: &[u8]) -> Option<PayloadId> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().filter(|mark| *mark > 0)
}

/// `None` where there is none that could be understood: a new DATA_PATH. Of a mark of version 0.1.0 and one of a version since then
/// the higher one, whichever was the last.
fn read_mark(file: &File) -> io::Result<Option<PayloadId>> {
    let mark = slots::read(file)?.as_deref().and_then(parsed);
    Ok(mark.max(parsed(&read_earlier(file)?)))
}

fn read_earlier(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = [0; EARLIER_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(bytes.strip_suffix(b"\n").unwrap_or_default().to_vec()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(file: &LockFile, highest_known: Option<PayloadId>) -> Ids {
        Ids::open(file.clone(), highest_known).expect("opens")
    }

    fn file() -> LockFile {
        tempfile::tempfile().expect("a temporary file").into()
    }

    #[test]
    fn ids_count_up_from_a_random_start_over_all_lives() {
        let file = file();
        let mut last = 0;
        for _ in 0..3 {
            // A life that ends without a word.
            let ids = open(&file, None);
            for count in 0..3 * BLOCK {
                let id = ids.take().expect("an id");
                assert!(id > last && (count == 0 || id == last + 1), "{id} after {last}");
                last = id;
            }
        }
        let ids = open(&file, None);
        let first = ids.take().expect("an id");
        ids.close().expect("closed");
        assert_eq!(open(&file, None).take().expect("an id"), first + 1, "a regular end loses none");
    }

    #[test]
    fn an_id_that_is_taken_after_a_regular_end_is_not_given_again() {
        let file = file();
        let ids = open(&file, None);
        ids.take().expect("an id");
        ids.close().expect("closed");
        let late = ids.take().expect("an id");
        assert!(open(&file, None).take().expect("an id") > late);
    }

    #[test]
    fn a_lost_mark_does_not_bring_back_an_id_that_is_still_known() {
        assert_eq!(open(&file(), Some(LAST_ID - 1)).take().expect("an id"), LAST_ID);
        for damaged in ["", "x", "99999999999", "0000000000\n"] {
            let file = file();
            file.current().write_all_at(damaged.as_bytes(), 0).expect("written");
            assert!(open(&file, Some(FIRST_ID_BELOW)).take().expect("an id") > FIRST_ID_BELOW);
        }
    }

    #[test]
    fn a_disk_that_takes_the_place_of_the_first_has_the_mark_as_well() {
        let first = file();
        let ids = open(&first, None);
        let id = ids.take().expect("an id");
        first.replace(tempfile::tempfile().expect("a temporary file"));
        assert_eq!(ids.take().expect("an id"), id + 1);
        assert!(open(&first, None).take().expect("an id") > id + 1);
        // One that somebody used before.
        let other = file();
        other.current().write_all_at(format!("{:010}\n", id + 10_000).as_bytes(), 0).expect("written");
        first.replace(other.current().try_clone().expect("a copy"));
        assert_eq!(ids.take().expect("an id"), id + 10_000);
        first.replace(tempfile::tempfile().expect("a temporary file"));
        ids.close().expect("closed");
        assert_eq!(open(&first, None).take().expect("an id"), id + 10_001);
    }

    #[test]
    fn the_mark_of_version_0_1_0_is_read_and_stays_until_another_is_whole() {
        let file = file();
        file.current().write_all_at(b"0000012345\n", 0).expect("written");
        let ids = open(&file, None);
        assert_eq!(ids.take().expect("an id"), 12_345);
        assert_eq!(read_earlier(&file.current()).expect("readable"), b"0000012345");
        assert_eq!(open(&file, None).take().expect("an id"), 12_345 + BLOCK);
        let torn = file.current();
        torn.write_all_at(b"torn", 0).expect("written");
        assert!(open(&file, None).take().expect("an id") >= 12_345 + BLOCK);
    }

    #[test]
    fn the_last_id_is_the_last_before_the_sign_bit() {
        let ids = open(&file(), Some(LAST_ID - 2));
        assert_eq!((ids.take().ok(), ids.take().ok()), (Some(LAST_ID - 1), Some(LAST_ID)));
        assert!(ids.are_used_up() && matches!(ids.take(), Err(IdError::UsedUp)));
    }
}
