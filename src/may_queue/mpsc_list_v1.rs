//! A queue whose entries can be taken out of its middle: `may` has one for each length of a timer, in the order of their
//! ends. Any thread may do anything with it. A timer that is cancelled leaves at once, but for the newest, which stays until
//! the next comes or its time has: a timer in an empty queue wakes a thread, and this spares it for a caller who always has
//! just one.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The queue. First in, first out.
pub struct Queue<T> {
    list: Arc<Mutex<List<T>>>,
}

struct List<T> {
    /// By number, so oldest first.
    values: BTreeMap<u64, T>,
    /// Of the next value. 64 bits never wrap.
    next: u64,
    /// Whether the newest value has been removed and only stays until another comes.
    newest_is_removed: bool,
}

impl<T> List<T> {
    fn is_newest(&self, number: u64) -> bool {
        number + 1 == self.next
    }
}

/// Nothing panics while it holds the lock, so that a poisoned list is a whole one.
fn lock<T>(list: &Mutex<List<T>>) -> MutexGuard<'_, List<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Queue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        let list = List { values: BTreeMap::new(), next: 0, newest_is_removed: false };
        Self { list: Arc::new(Mutex::new(list)) }
    }

    /// Adds a value at the end. True: it is the only one, and whoever sleeps until the first one's time must look again.
    pub fn push(&self, value: T) -> (Entry<T>, bool) {
        let mut list = lock(&self.list);
        let number = list.next;
        list.next += 1;
        let is_only = list.values.is_empty();
        list.values.insert(number, value);
        let removed = if list.newest_is_removed { list.values.remove(&number.wrapping_sub(1)) } else { None };
        list.newest_is_removed = false;
        drop(list);
        drop(removed); // its own `drop` is a stranger's code, which the lock must not be held for
        (Entry { list: Arc::clone(&self.list), number }, is_only)
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.list).values.is_empty()
    }

    /// The oldest value, and a lock on the queue for as long as it is looked at.
    #[must_use]
    pub fn peek(&self) -> Option<Oldest<'_, T>> {
        let list = lock(&self.list);
        let number = *list.values.first_key_value()?.0;
        Some(Oldest { list, number })
    }

    /// Takes the oldest value if the condition holds for it.
    pub fn pop_if<F: Fn(&T) -> bool>(&self, condition: &F) -> Option<T> {
        let mut list = lock(&self.list);
        let oldest = list.values.first_entry().filter(|oldest| condition(oldest.get()))?;
        let (number, value) = oldest.remove_entry();
        if list.is_newest(number) {
            list.newest_is_removed = false;
        }
        Some(value)
    }

    /// Takes the oldest value.
    #[must_use]
    pub fn pop(&self) -> Option<T> {
        self.pop_if(&|_| true)
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The oldest value of a queue, which stays locked meanwhile.
pub struct Oldest<'q, T> {
    list: MutexGuard<'q, List<T>>,
    number: u64,
}

impl<T> Deref for Oldest<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.list.values[&self.number]
    }
}

/// A value in a queue, to get at while it is there. An entry that is dropped leaves its value where it is.
pub struct Entry<T> {
    list: Arc<Mutex<List<T>>>,
    number: u64,
}

impl<T> Entry<T> {
    /// Changes the value, if it is still there.
    pub fn with_mut_data<F: FnOnce(&mut T)>(&self, change: F) {
        if let Some(value) = lock(&self.list).values.get_mut(&self.number) {
            change(value);
        }
    }

    /// Whether the value is still in the queue.
    #[must_use]
    pub fn is_link(&self) -> bool {
        let list = lock(&self.list);
        list.values.contains_key(&self.number) && !(list.newest_is_removed && list.is_newest(self.number))
    }

    /// Takes the value out, if it is still there and not the newest: that one goes when the next comes or its turn does.
    #[allow(clippy::must_use_candidate)] // whoever cancels a timer has no use for its value
    pub fn remove(self) -> Option<T> {
        let mut list = lock(&self.list);
        if list.is_newest(self.number) {
            list.newest_is_removed = list.values.contains_key(&self.number);
            return None;
        }
        list.values.remove(&self.number)
    }

    /// The entry as a pointer, for an atomic one.
    #[must_use]
    pub fn into_ptr(self) -> *mut Self {
        Box::into_raw(Box::new(self))
    }

    /// The entry that was made a pointer.
    ///
    /// # Safety
    ///
    /// The pointer comes from `into_ptr`, and from here only once.
    #[must_use]
    pub unsafe fn from_ptr(pointer: *mut Self) -> Self {
        // SAFETY: by the caller's promise this box is ours, and nobody else's.
        *unsafe { Box::from_raw(pointer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    fn len<T>(queue: &Queue<T>) -> usize {
        lock(&queue.list).values.len()
    }

    #[test]
    fn values_come_in_their_order_and_only_when_it_is_time() {
        let queue = Queue::new();
        assert!(queue.push(1).1);
        assert!(!queue.push(2).1);
        assert_eq!(queue.pop_if(&|value| *value > 1), None);
        assert_eq!(queue.peek().map(|oldest| *oldest), Some(1));
        assert_eq!(queue.pop_if(&|value| *value == 1), Some(1));
        assert_eq!(queue.pop(), Some(2));
        assert!(queue.is_empty() && queue.peek().is_none() && queue.pop().is_none());
        assert!(queue.push(3).1, "the only one again");
    }

    #[test]
    fn what_is_removed_from_the_middle_never_comes() {
        let queue = Queue::new();
        let mut entries: Vec<_> = (0..5).map(|value| queue.push(value).0).collect();
        assert!(entries[1].is_link());
        assert_eq!(entries.remove(1).remove(), Some(1));
        assert_eq!(entries.remove(0).remove(), Some(0));
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(2), Some(3), Some(4)]);
        assert!(!entries[0].is_link());
        assert_eq!(entries.remove(0).remove(), None, "it has come");
        assert!(queue.is_empty());
    }

    #[test]
    fn the_newest_stays_until_the_next_comes() {
        let queue = Queue::new();
        for value in 0..1_000 {
            let (entry, is_only) = queue.push(value);
            assert_eq!(is_only, value == 0, "a timer of one caller wakes nobody");
            assert!(entry.is_link());
            assert_eq!(entry.remove(), None);
            assert_eq!(len(&queue), 1, "but no more than one stays");
        }
        assert_eq!(queue.peek().map(|oldest| *oldest), Some(999));
        assert_eq!(queue.pop(), Some(999), "and it goes when its time has come");
        assert!(queue.push(1_000).1);
        assert!(!queue.push(1_001).1);
        assert_eq!(
            [queue.pop(), queue.pop()],
            [Some(1_000), Some(1_001)],
            "nothing is dropped for one that has gone"
        );
    }

    #[test]
    fn an_entry_that_has_come_changes_nothing() {
        let queue = Queue::new();
        let entry = queue.push(1).0;
        entry.with_mut_data(|value| *value = 2);
        assert_eq!(queue.pop(), Some(2));
        entry.with_mut_data(|_| unreachable!());
        assert!(!entry.is_link());
        assert_eq!(entry.remove(), None);
        assert!(queue.push(3).1);
        assert!(!queue.push(4).1);
        assert_eq!([queue.pop(), queue.pop()], [Some(3), Some(4)]);
    }

    #[test]
    fn an_entry_goes_through_a_pointer() {
        let queue = Queue::new();
        let pointer = queue.push(1).0.into_ptr();
        queue.push(2);
        // SAFETY: the pointer has just been made, and is taken once.
        let entry = unsafe { Entry::from_ptr(pointer) };
        assert_eq!(entry.remove(), Some(1));
        assert_eq!(queue.pop(), Some(2));
    }

    /// As timers do: most are removed by whoever set them, the others come, and none does both.
    #[test]
    fn every_value_is_removed_or_comes() {
        const EACH: usize = 20_000;
        let queue = Queue::new();
        let removed = AtomicUsize::new(0);
        let came = thread::scope(|scope| {
            let setters: Vec<_> =
                (0..4).map(|_| scope.spawn(|| set_and_remove(&queue, &removed, EACH))).collect();
            let mut came = 0;
            while setters.iter().any(|setter| !setter.is_finished()) {
                came += usize::from(queue.pop_if(&|value| value % 16 == 0).is_some());
            }
            came
        });
        let left = std::iter::from_fn(|| queue.pop()).count();
        let total = removed.load(Ordering::Relaxed) + came + left;
        // The newest that was removed is gone, or has come, without a word to its setter.
        assert!(total <= 4 * EACH && left <= 2, "{total} of {}, {left} left", 4 * EACH);
        assert!(removed.load(Ordering::Relaxed) > 0);
    }

    fn set_and_remove(queue: &Queue<usize>, removed: &AtomicUsize, count: usize) {
        let mut before: Option<Entry<usize>> = None;
        for value in 0..count {
            let entry = queue.push(value).0;
            if before.replace(entry).is_some_and(|before| before.remove().is_some()) {
                removed.fetch_add(1, Ordering::Relaxed);
            }
        }
        if before.is_some_and(|before| before.remove().is_some()) {
            removed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
