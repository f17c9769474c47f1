//! Which processors a payload runs on, where it may not use all: those that the fewest others have, so that payloads keep out of each
//! other's way. By affinity (sched_setaffinity(2)), since `nproc`, OpenMP and Python go by that.

use std::sync::Arc;

use rustix::thread::{CpuSet, sched_getaffinity};

/// The processors that this client may use, and how many payloads each is given to. Those that may use all count nowhere.
pub struct Processors(Vec<Processor>);

struct Processor {
    number: usize,
    payloads: u32,
}

impl Processors {
    /// Those that this process may use (`taskset(1)`, `cpuset`). None where the system does not tell.
    pub fn usable() -> Self {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let numbers = (0..CpuSet::MAX_CPU).filter(|number| set.is_set(*number));
        Self(numbers.map(|number| Processor { number, payloads: 0 }).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Gives a payload so many of them: those that the fewest have, of these the first ones. `None` where it may use all.
    pub fn take(&mut self, number: u64) -> Option<Taken> {
        let number = usize::try_from(number).ok().filter(|number| *number < self.0.len())?;
        let mut by_use: Vec<&mut Processor> = self.0.iter_mut().collect();
        by_use.sort_by_key(|processor| processor.payloads);
        let taken = by_use.into_iter().take(number).map(|processor| {
            processor.payloads += 1;
            processor.number
        });
        Some(Taken(taken.collect()))
    }

    /// Takes back what a payload was given.
    pub fn give_back(&mut self, taken: Option<&Taken>) {
        let Some(taken) = taken else { return };
        for processor in self.0.iter_mut().filter(|processor| taken.0.contains(&processor.number)) {
            processor.payloads -= 1;
        }
    }
}

/// The processors of one payload, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken(Vec<usize>);

impl Taken {
    /// A bit for each, as sched_setaffinity(2) takes them.
    pub fn mask(&self) -> Arc<[libc::c_ulong]> {
        let bits = libc::c_ulong::BITS as usize;
        let words = self.0.iter().max().map_or(0, |last| last / bits + 1);
        let word = |index| {
            let here = self.0.iter().filter(|number| **number / bits == index);
            here.fold(0, |word, number| word | 1 << (number % bits))
        };
        (0..words).map(word).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_payload_has_its_own_as_long_as_there_are_enough() {
        let of = |number| Processor { number, payloads: 0 };
        let mut processors = Processors([0, 1, 4, 5, 6].map(of).into());
        let first = processors.take(2).expect("some");
        assert_eq!(first, Taken(vec![0, 1]));
        assert_eq!(processors.take(2), Some(Taken(vec![4, 5])));
        assert_eq!((processors.take(5), processors.take(9)), (None, None), "these are all");
        assert_eq!(processors.take(2), Some(Taken(vec![6, 0])), "one is left, and one is shared");
        processors.give_back(Some(&first));
        assert_eq!(processors.take(1), Some(Taken(vec![1])));
    }

    #[test]
    fn a_mask_has_a_bit_for_each() {
        let bits = libc::c_ulong::BITS as usize;
        assert_eq!(*Taken(vec![0, 3]).mask(), [0b1001]);
        assert_eq!(*Taken(vec![bits + 1, 2]).mask(), [0b100, 0b10]);
    }
}
