//! Some blocks of an archive between reader and stream, and the threads that compress them.
//! The thread that makes the archive reads, writes, and compresses with the others while it would have to wait. Blocks come
//! out in the order they went in; there are never more than the window has room for. Nothing here knows files or ZIP.

use super::ArchiveError;
use super::block::Block;
use super::deflate::{DeflateError, Deflater};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};

/// As those of the disk threads, on which all of this runs also where there are no others.
const STACK_BYTES: usize = 256 * 1024;

/// Threads are started when there has been so much to compress: a small archive is made before they would be up.
const WORTH_THREADS_BYTES: usize = 256 * 1024;

/// Where blocks come from.
pub(super) trait Source {
    /// Makes `block` the next part of the archive. `false` at its end.
    fn fill(&mut self, block: &mut Block, deflater: &mut Deflater) -> Result<bool, ArchiveError>;
}

/// The blocks on their way, shared by the threads.
#[derive(Default)]
pub(super) struct Window {
    state: Mutex<State>,
    /// There is a block to compress, or nothing more to do.
    work: Condvar,
    /// The oldest block is done.
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// The oldest first.
    slots: VecDeque<Slot>,
    /// How many blocks have left the window: the number of the first in `slots`.
    gone: usize,
    idle_threads: usize,
    is_awaited: bool,
    is_closed: bool,
}

enum Slot {
    Waiting(Block),
    /// Some thread has it.
    Taken,
    Done(Block, Result<(), DeflateError>),
}

impl State {
    /// The oldest block that nobody has taken, and its number.
    fn take(&mut self) -> Option<(usize, Block)> {
        let at = self.slots.iter().position(|slot| matches!(slot, Slot::Waiting(_)))?;
        match std::mem::replace(self.slots.get_mut(at)?, Slot::Taken) {
            Slot::Waiting(block) => Some((self.gone + at, block)),
            _ => None,
        }
    }
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, block: Block) {
        let mut state = self.lock();
        if block.deflates {
            state.slots.push_back(Slot::Waiting(block));
            if state.idle_threads > 0 {
                self.work.notify_one();
            }
        } else {
            state.slots.push_back(Slot::Done(block, Ok(())));
        }
    }

    /// Compresses one block and puts it back to its place.
    fn pack(&self, number: usize, mut block: Block, deflater: &mut Deflater) {
        let result = deflater.pack(&mut block);
        let mut state = self.lock();
        let at = number - state.gone;
        if let Some(slot) = state.slots.get_mut(at) {
            *slot = Slot::Done(block, result);
        }
        if at == 0 && state.is_awaited {
            self.done.notify_one();
        }
    }

    /// What the other threads do until the archive is done or has failed.
    fn work(&self) {
        let mut deflater = Deflater::new(false);
        loop {
            let mut state = self.lock();
            let (number, block) = loop {
                if state.is_closed {
                    return;
                }
                if let Some(taken) = state.take() {
                    break taken;
                }
                state.idle_threads += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle_threads -= 1;
            };
            drop(state);
            self.pack(number, block, &mut deflater);
        }
    }
}

/// The end of the window that the thread of the archive has. Dropped, it ends the other threads.
pub(super) struct Packer<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    window: &'env Window,
    /// How many more are to be started when it is worth it.
    missing_threads: usize,
    /// How many blocks may be in the window.
    room: usize,
    bytes_to_deflate: usize,
    deflater: Deflater,
    free: Vec<Block>,
    is_at_end: bool,
}

impl<'scope, 'env> Packer<'scope, 'env> {
    /// For `threads` of them in all, this one included.
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, window: &'env Window, threads: usize) -> Self {
        let is_alone = threads <= 1;
        Self {
            scope,
            window,
            missing_threads: threads.saturating_sub(1),
            room: if is_alone { 1 } else { room(threads) },
            bytes_to_deflate: 0,
            deflater: Deflater::new(is_alone),
            free: Vec::new(),
            is_at_end: false,
        }
    }

    /// The next block of the archive, ready to go out. `None` at the end.
    pub(super) fn next(&mut self, source: &mut dyn Source) -> Result<Option<Block>, ArchiveError> {
        self.read_ahead(source)?;
        let mut state = self.window.lock();
        loop {
            match state.slots.front() {
                None => return Ok(None),
                Some(Slot::Done(..)) => {
                    if let Some(Slot::Done(block, result)) = state.slots.pop_front() {
                        state.gone += 1;
                        return result.map(|()| Some(block)).map_err(ArchiveError::Deflate);
                    }
                }
                Some(_) => {}
            }
            state = if let Some((number, block)) = state.take() {
                drop(state);
                self.window.pack(number, block, &mut self.deflater);
                self.window.lock()
            } else {
                state.is_awaited = true;
                let mut woken = self.window.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                woken.is_awaited = false;
                woken
            };
        }
    }

    /// Takes a block back whose data has gone out: its buffers serve the next.
    pub(super) fn give_back(&mut self, block: Block) {
        self.free.push(block);
    }

    fn read_ahead(&mut self, source: &mut dyn Source) -> Result<(), ArchiveError> {
        while !self.is_at_end && self.window.lock().slots.len() < self.room {
            let mut block = self.free.pop().unwrap_or_default();
            if !source.fill(&mut block, &mut self.deflater)? {
                self.is_at_end = true;
                break;
            }
            if block.deflates {
                self.bytes_to_deflate = self.bytes_to_deflate.saturating_add(block.data().len());
            }
            self.window.push(block);
            if self.bytes_to_deflate >= WORTH_THREADS_BYTES {
                self.start_threads();
            }
        }
        Ok(())
    }

    fn start_threads(&mut self) {
        let window = self.window;
        for _ in 0..std::mem::take(&mut self.missing_threads) {
            let thread = thread::Builder::new().name("zip".to_owned()).stack_size(STACK_BYTES);
            // Should the system have no more threads, those that are there do it: this one at least.
            let _ = thread.spawn_scoped(self.scope, || window.work());
        }
    }
}

impl Drop for Packer<'_, '_> {
    fn drop(&mut self) {
        self.window.lock().is_closed = true;
        self.window.work.notify_all();
    }
}

/// Blocks for `threads`: each compresses one while another of its is read or goes out.
const fn room(threads: usize) -> usize {
    2 * threads + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::block::{DATA_BYTES, Part};
    use super::*;

    /// Blocks of text without an end, numbered.
    #[derive(Default)]
    struct Endless {
        made: usize,
    }

    impl Source for Endless {
        fn fill(&mut self, block: &mut Block, _: &mut Deflater) -> Result<bool, ArchiveError> {
            block.begin(Part::Whole);
            block.mtime_s = i64::try_from(self.made).unwrap();
            // Every third needs no work.
            block.deflates = !self.made.is_multiple_of(3);
            block.space(DATA_BYTES).unwrap().fill(b'a');
            block.set_data_bytes(DATA_BYTES);
            self.made += 1;
            Ok(true)
        }
    }

    #[test]
    fn blocks_come_in_order_and_reading_is_never_further_ahead_than_the_window() {
        for (threads, most) in [(1, 1), (2, 5), (4, 9)] {
            let window = Window::default();
            let mut source = Endless::default();
            thread::scope(|scope| {
                let mut packer = Packer::new(scope, &window, threads);
                for number in 0..200 {
                    let block = packer.next(&mut source).unwrap().unwrap();
                    assert_eq!(block.mtime_s, number);
                    assert_eq!(block.packed().len() < DATA_BYTES, number % 3 != 0);
                    assert!(
                        source.made - usize::try_from(number).unwrap() <= most,
                        "{threads} {}",
                        source.made
                    );
                    packer.give_back(block);
                    assert!(packer.free.len() <= most);
                }
            });
            // Left in the middle: the scope has ended all the same.
            let state = window.lock();
            assert!(state.is_closed && state.idle_threads == 0);
        }
    }

    #[test]
    fn one_thread_starts_no_other_and_four_start_three() {
        for threads in [1, 4] {
            let window = Window::default();
            thread::scope(|scope| {
                let mut packer = Packer::new(scope, &window, threads);
                let mut source = Endless::default();
                for _ in 0..100 {
                    let block = packer.next(&mut source).unwrap().unwrap();
                    packer.give_back(block);
                }
                while window.lock().idle_threads < threads - 1 {
                    thread::yield_now();
                }
                assert_eq!((packer.missing_threads, window.lock().idle_threads), (0, threads - 1));
            });
        }
    }
}
