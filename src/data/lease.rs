//! Who reads a payload's directory, and who removes it: never both at once, and nobody waits in here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The directories that are in use; cheap to clone.
#[derive(Clone, Default)]
pub struct Leases(Arc<Mutex<BTreeMap<PathBuf, Use>>>);

enum Use {
    /// By so many; never none.
    Readers(usize),
    Remover,
}

/// A directory stays as it is until this is dropped.
pub struct Lease {
    leases: Leases,
    directory: PathBuf,
}

impl Leases {
    /// To read the directory, with as many others as there are; `None` while it is being removed.
    pub fn read(&self, directory: &Path) -> Option<Lease> {
        match self.lock().entry(directory.to_owned()).or_insert(Use::Readers(0)) {
            Use::Readers(readers) => *readers += 1,
            Use::Remover => return None,
        }
        Some(self.lease(directory))
    }

    /// To remove the directory; `None` while somebody reads or removes it.
    pub fn remove(&self, directory: &Path) -> Option<Lease> {
        let mut all = self.lock();
        if all.contains_key(directory) {
            return None;
        }
        all.insert(directory.to_owned(), Use::Remover);
        Some(self.lease(directory))
    }

    fn lease(&self, directory: &Path) -> Lease {
        Lease { leases: self.clone(), directory: directory.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut all = self.leases.lock();
        match all.get_mut(&self.directory) {
            Some(Use::Readers(readers)) if *readers > 1 => *readers -= 1,
            _ => drop(all.remove(&self.directory)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_may_read_and_one_may_remove_but_not_both() {
        let leases = Leases::default();
        let (one, other) = (Path::new("/one"), Path::new("/other"));
        let first = leases.read(one).expect("free");
        let second = leases.clone().read(one).expect("read by others only");
        assert!(leases.remove(one).is_none());
        drop(first);
        assert!(leases.remove(one).is_none());
        drop(second);
        let removal = leases.remove(one).expect("free again");
        assert!(leases.remove(one).is_none() && leases.read(one).is_none());
        assert!(leases.read(other).is_some());
        drop(removal);
        assert!(leases.read(one).is_some());
        assert!(leases.lock().is_empty());
    }
}
