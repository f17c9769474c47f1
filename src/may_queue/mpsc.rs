//! A queue without bounds: any thread pushes, any thread takes the oldest.

use std::fmt;

use crossbeam_queue::SegQueue;

/// The queue. First in, first out.
pub struct Queue<T> {
    items: SegQueue<T>,
}

impl<T> Queue<T> {
    /// An empty queue; it holds no memory until something is pushed.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: SegQueue::new() }
    }

    /// Adds a value at the end.
    pub fn push(&self, value: T) {
        self.items.push(value);
    }

    /// Takes the oldest value.
    #[must_use]
    pub fn pop(&self) -> Option<T> {
        self.items.pop()
    }

    /// Takes some of the oldest values, at least one where there is one: callers go on until nothing comes. One at a
    /// time needs no memory in between.
    #[must_use]
    pub fn bulk_pop(&self) -> Taken<T> {
        Taken { value: self.pop() }
    }

    /// How many values wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue {{ len: {} }}", self.len())
    }
}

/// What `bulk_pop` took.
#[derive(Debug)]
pub struct Taken<T> {
    value: Option<T>,
}

impl<T> Taken<T> {
    /// Whether nothing was there to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.value.is_none()
    }
}

impl<T> IntoIterator for Taken<T> {
    type Item = T;
    type IntoIter = std::option::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.value.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn values_come_in_their_order() {
        let queue = Queue::new();
        (0..200).for_each(|value| queue.push(value)); // more than crossbeam's blocks hold
        assert_eq!(queue.len(), 200);
        let mut taken = Vec::new();
        loop {
            let some = queue.bulk_pop();
            if some.is_empty() {
                break;
            }
            taken.extend(some);
        }
        assert_eq!(taken, (0..200).collect::<Vec<_>>());
        assert!(queue.is_empty() && queue.pop().is_none());
    }

    #[test]
    fn many_producers_lose_nothing_and_keep_their_order() {
        const EACH: usize = 20_000;
        let queue = Queue::new();
        let mut next = [0; 4];
        thread::scope(|scope| {
            for producer in 0..next.len() {
                let queue = &queue;
                scope.spawn(move || (0..EACH).for_each(|number| queue.push((producer, number))));
            }
            while next.iter().sum::<usize>() < 4 * EACH {
                for (producer, number) in queue.bulk_pop() {
                    assert_eq!(number, next[producer]);
                    next[producer] += 1;
                }
            }
        });
        assert!(queue.is_empty());
    }

    #[test]
    fn values_left_in_the_queue_are_dropped_with_it() {
        let value = Arc::new(());
        let queue = Queue::default();
        (0..100).for_each(|_| queue.push(Arc::clone(&value)));
        drop(queue.pop());
        assert_eq!(Arc::strong_count(&value), 100);
        drop(queue);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
