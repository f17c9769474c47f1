//! What a disk thread has to tell the coroutine that asked it. The one who asks waits for so long only; what comes later is told
//! to nobody, and whoever works on it can know that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use may::sync::Blocker;

use super::watch::Patience;

/// Makes the two ends.
pub(super) fn reply<T>() -> (Teller<T>, Asker<T>) {
    let shared = Arc::new(Shared { state: Mutex::new(State { is: Is::Open, waiting: None }) });
    (Teller { shared: Arc::clone(&shared) }, Asker { shared })
}

struct Shared<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    is: Is<T>,
    waiting: Option<Arc<Blocker>>,
}

enum Is<T> {
    /// Being worked on.
    Open,
    /// As good as told: the one who asked waits for it.
    Claimed,
    /// Nobody waits any more.
    GivenUp,
    Told(T),
    /// The one who worked on it is gone without a word.
    Lost,
}

impl<T> Shared<T> {
    /// Held for a few instructions only, never while waiting.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, with: Is<T>) {
        let mut state = self.lock();
        if !matches!(state.is, Is::GivenUp | Is::Told(_)) {
            state.is = with;
        }
        let waiting = state.waiting.take();
        drop(state);
        if let Some(blocker) = waiting {
            blocker.unpark();
        }
    }
}

/// The end that tells, once.
pub(super) struct Teller<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Teller<T> {
    /// Whether somebody waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        !matches!(self.shared.lock().is, Is::GivenUp)
    }

    pub(super) fn tell(self, result: T) {
        self.shared.end(Is::Told(result));
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        self.shared.end(Is::Lost);
    }
}

/// Lets the one who works on it make sure, at the last moment, that it will be told.
pub(super) trait Claim: Send + Sync {
    /// Whether somebody waits. From now on he does so however long it takes.
    fn claim(&self) -> bool;
}

impl<T: Send> Claim for Teller<T> {
    fn claim(&self) -> bool {
        let mut state = self.shared.lock();
        if matches!(state.is, Is::Open) {
            state.is = Is::Claimed;
        }
        !matches!(state.is, Is::GivenUp)
    }
}

/// The end that waits.
pub(super) struct Asker<T> {
    shared: Arc<Shared<T>>,
}

/// Why nothing is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Patience has come to its end.
    Late,
    /// It will never be.
    Lost,
}

impl<T> Asker<T> {
    pub(super) fn wait(self, patience: &mut Patience<'_>) -> Result<T, Missing> {
        loop {
            let mut state = self.shared.lock();
            let is_claimed = match std::mem::replace(&mut state.is, Is::GivenUp) {
                Is::Told(result) => return Ok(result),
                Is::Lost | Is::GivenUp => return Err(Missing::Lost),
                Is::Claimed => true,
                Is::Open => false,
            };
            state.is = if is_claimed { Is::Claimed } else { Is::Open };
            let blocker = Blocker::current();
            state.waiting = Some(Arc::clone(&blocker));
            drop(state);
            if is_claimed {
                // Without a time-out, and coroutines are never cancelled here: there is no error to come.
                let _ = blocker.park(None);
            } else if patience.wait(&blocker).is_err() && self.give_up() {
                return Err(Missing::Late);
            }
        }
    }

    /// Whether nothing is told any more.
    fn give_up(&self) -> bool {
        let mut state = self.shared.lock();
        if matches!(state.is, Is::Open) {
            state.is = Is::GivenUp;
        }
        matches!(state.is, Is::GivenUp)
    }
}

impl<T> Drop for Asker<T> {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Watch;
    use std::thread;
    use std::time::Duration;

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn what_is_told_in_time_arrives_and_what_is_lost_is_known() {
        let watch = Watch::start().expect("a thread");
        let (teller, asker) = reply();
        thread::spawn(move || teller.tell(7));
        assert_eq!(asker.wait(&mut Patience::new(&watch, Duration::from_secs(60))), Ok(7));
        let (teller, asker) = reply::<u8>();
        thread::spawn(move || drop(teller));
        assert_eq!(asker.wait(&mut Patience::new(&watch, Duration::from_secs(60))), Err(Missing::Lost));
    }

    #[test]
    fn after_its_time_nobody_waits_and_it_cannot_be_claimed() {
        let watch = Watch::start().expect("a thread");
        let (teller, asker) = reply::<u8>();
        assert!(teller.is_awaited());
        assert_eq!(asker.wait(&mut Patience::new(&watch, SHORT)), Err(Missing::Late));
        assert!(!teller.is_awaited() && !teller.claim());
        let (teller, asker) = reply::<u8>();
        drop(asker);
        assert!(!teller.claim());
    }

    #[test]
    fn what_is_claimed_is_waited_for_however_long_it_takes() {
        let watch = Watch::start().expect("a thread");
        let (teller, asker) = reply();
        assert!(teller.claim());
        thread::spawn(move || {
            thread::sleep(SHORT * 4);
            teller.tell(7);
        });
        assert_eq!(asker.wait(&mut Patience::new(&watch, SHORT)), Ok(7));
    }
}
