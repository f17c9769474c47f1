//! A channel that can be waited for together with other descriptors (poll(2)).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, mpsc};

use rustix::event::{EventfdFlags, eventfd};

/// Makes a channel.
pub(super) fn inbox<T>() -> io::Result<(Sender<T>, Inbox<T>)> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, messages) = mpsc::channel();
    Ok((Sender { messages: sender, bell: Arc::clone(&bell) }, Inbox { messages, bell }))
}

/// The side that sends.
pub(super) struct Sender<T> {
    messages: mpsc::Sender<T>,
    bell: Arc<OwnedFd>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { messages: self.messages.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Sender<T> {
    /// Sends a message. It is lost only if the receiver is gone, which here means the process.
    pub(super) fn send(&self, message: T) {
        let _ = self.messages.send(message);
        self.wake();
    }

    /// Wakes the receiver without a message: something else has changed.
    pub(super) fn wake(&self) {
        // A counter at its limit is as good a wake-up as one more.
        let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
    }
}

/// The side that receives.
pub(super) struct Inbox<T> {
    messages: mpsc::Receiver<T>,
    bell: Arc<OwnedFd>,
}

impl<T> Inbox<T> {
    /// Readable when there is something new.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// All that has come. What comes from here on makes the bell readable again.
    pub(super) fn take(&self) -> impl Iterator<Item = T> {
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
        self.messages.try_iter()
    }
}
