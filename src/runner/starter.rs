//! What comes before a start: a waiting payload is claimed as soon as a slot is free, its start noted, its logs created.
//! All of that may wait for a disk that hangs, so none of it is the runner's own work.
//!
//! Where the host lacks something (its disk, a process, descriptors), no payload fails for that: the one at hand waits again,
//! nothing more is claimed, and an attempt is made once in a while until one works. The same where the host is over a bound that its
//! operator has set.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::Event;
use super::end::Ends;
use super::hand_over::HandOver;
use super::inbox::Sender;
use super::script;
use super::start::{Launcher, StartError, Streams};
use crate::data::path::DataPath;
use crate::data::temporary;
use crate::event;
use crate::host::strain::Strain;
use crate::limits::{self, Cgroups, Grant, Group, Request};
use crate::payload::{Outcome, Payload, PayloadId, Status};
use crate::sandbox::Plan;

/// Between two attempts to start something while the host lacks what that takes.
const RETRY_PAUSE: Duration = Duration::from_millis(400);

/// Between two looks at a host that is over a bound of its operator. Its load is measured about as often.
const STRAIN_PAUSE: Duration = Duration::from_secs(1);

/// What the host lacks again so soon after it had it is told no second time: a limit that is met by payloads themselves is met
/// and left many times a second.
const TOLD_FOR: Duration = Duration::from_secs(10);

/// Makes payloads ready to be started; cheap to clone.
#[derive(Clone)]
pub(super) struct Starter {
    ends: Ends,
    data_path: DataPath,
    launcher: Arc<Launcher>,
    /// What each payload may use at the most.
    grant: Grant,
    cgroups: Option<Arc<Cgroups>>,
    hand_over: HandOver,
    usable_processors: usize,
    slots: Arc<Mutex<Slots>>,
    ready: Sender<Event>,
    strain: Arc<Strain>,
}

/// Why payloads wait though a slot is free.
#[derive(Clone, Debug, PartialEq)]
pub enum Obstacle {
    /// The host lacks what a start takes.
    Lack(String),
    /// It is over a bound that its operator has set.
    Strain(String),
}

impl Obstacle {
    /// For people.
    pub fn reason(&self) -> &str {
        match self {
            Self::Lack(reason) | Self::Strain(reason) => reason,
        }
    }

    fn pause(&self) -> Duration {
        match self {
            Self::Lack(_) => RETRY_PAUSE,
            Self::Strain(_) => STRAIN_PAUSE,
        }
    }
}

struct Slots {
    /// Whether a payload has it, by the number of the slot.
    taken: Vec<bool>,
    is_closed: bool,
    outage: Option<Outage>,
    /// Until then no other outage is told.
    quiet_until: Option<Instant>,
}

/// Nothing is started for a while.
struct Outage {
    obstacle: Obstacle,
    since: Instant,
    is_told: bool,
    /// `None` while an attempt is under way.
    retry_at: Option<Instant>,
}

/// A payload that holds a slot and lacks nothing but its process.
pub(super) struct Ready {
    pub(super) id: PayloadId,
    /// Its number, from 0.
    pub(super) slot: usize,
    pub(super) directory: Arc<Path>,
    pub(super) streams: Streams,
    /// What it may use.
    pub(super) grant: Grant,
    /// Where the kernel keeps a part of that.
    pub(super) group: Option<Arc<Group>>,
    /// When it got its slot.
    pub(super) claimed: Instant,
    pub(super) plan: Plan,
}

impl Starter {
    /// `ready` is told of each payload that may be started.
    pub(super) fn new(
        ends: Ends,
        data_path: DataPath,
        launcher: Arc<Launcher>,
        limits: &super::Limits,
        strain: Strain,
        ready: Sender<Event>,
    ) -> Self {
        let (slots, grant, cgroups) = (limits.slots, limits.grant, limits.cgroups.clone());
        let usable_processors = limits.usable_processors;
        let slots = Slots { taken: vec![false; slots], is_closed: false, outage: None, quiet_until: None };
        let (hand_over, slots) = (HandOver::new(limits.users.clone()), Arc::new(Mutex::new(slots)));
        let strain = Arc::new(strain);
        Self { ends, data_path, launcher, grant, cgroups, hand_over, usable_processors, slots, ready, strain }
    }

    /// Makes waiting payloads ready as long as a slot is free. May wait for the disk.
    pub(super) fn fill_slots(&self) {
        while self.may_start_one()
            && let Some((payload, slot)) = self.claim(|slots| slots.outage.is_none())
        {
            self.make_ready(&payload, slot);
        }
    }

    /// Whether the host is within its bounds; if not, and something waits for that alone, what waits is looked after.
    fn may_start_one(&self) -> bool {
        let is_possible = {
            let slots = self.slots();
            !slots.is_closed && slots.taken.contains(&false) && slots.outage.is_none()
        };
        if !is_possible || self.ends.store.waiting() == 0 {
            return false;
        }
        let Some(reason) = self.strain.reason() else { return true };
        self.begin_outage(Obstacle::Strain(reason));
        self.ready.wake();
        false
    }

    /// What starts have in common.
    pub(super) fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// The payload that held this slot is over.
    pub(super) fn free_slot(&self, slot: usize) {
        if let Some(taken) = self.slots().taken.get_mut(slot) {
            *taken = false;
        }
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
        !self.slots().taken.contains(&true)
    }

    /// What is in the way of a start, if so.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        self.slots().outage.as_ref().map(|outage| outage.obstacle.clone())
    }

    /// When the next attempt is due, while the host lacks something.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let slots = self.slots();
        slots.outage.as_ref().filter(|_| !slots.is_closed)?.retry_at
    }

    /// An attempt begins: [`Starter::retry`], [`Starter::put_off`] or [`Starter::host_is_well`] says how it went.
    pub(super) fn begin_retry(&self) {
        if let Some(outage) = &mut self.slots().outage {
            outage.retry_at = None;
        }
    }

    /// Tries to start the payload that waits the longest. First without touching it: a caller who polls should not see it run
    /// and wait by turns. May wait for the disk.
    pub(super) fn retry(&self) {
        if let Some(trouble) = self.data_path.trouble_now() {
            return self.put_off(Some(Obstacle::Lack(trouble)));
        }
        if let Ok(Some(next)) = self.ends.store.next_waiting() {
            if let Some(reason) = self.strain.reason() {
                return self.put_off(Some(Obstacle::Strain(reason)));
            }
            let directory = &next.loc;
            let made = temporary::make(directory).map(drop).map_err(StartError::Temporary);
            if let Err(error) = Launcher::try_streams(directory).and(made)
                && self.is_of_host(&error, directory)
            {
                return self.put_off(Some(Obstacle::Lack(error.to_string())));
            }
        }
        match self.claim(|_| true) {
            Some((payload, slot)) => self.make_ready(&payload, slot),
            // Nothing waits any more, or all slots have been taken: by payloads that could be started.
            None => drop(self.host_is_well()),
        }
        self.fill_slots();
    }

    /// Nothing can be started still: for this reason, or for the same as before.
    pub(super) fn put_off(&self, obstacle: Option<Obstacle>) {
        if let Some(outage) = &mut self.slots().outage {
            if let Some(obstacle) = obstacle {
                outage.obstacle = obstacle;
            }
            outage.retry_at = Some(Instant::now() + outage.obstacle.pause());
        }
        self.ready.wake();
    }

    /// What changes hands with a payload.
    pub(super) fn hand_over(&self) -> &HandOver {
        &self.hand_over
    }

    /// A payload could be started, or is itself to blame that not. Gives whether the host lacked something before: then the
    /// slots are to be filled.
    pub(super) fn host_is_well(&self) -> bool {
        let mut slots = self.slots();
        let Some(outage) = slots.outage.take() else { return false };
        if outage.is_told {
            event!(Info, "payloads are started again", after_s = outage.since.elapsed().as_secs());
            slots.quiet_until = Some(Instant::now() + TOLD_FOR);
        }
        true
    }

    /// What becomes of a payload that was claimed and could not be started: it waits, or that is its end. May wait for the disk.
    pub(super) fn not_started(&self, id: PayloadId, directory: &Path, error: &StartError) {
        self.hand_over.take_back(id, directory);
        remove_temporary(id, directory);
        if self.is_of_host(error, directory) {
            self.begin_outage(Obstacle::Lack(error.to_string()));
            self.put_back(id);
        } else {
            self.ends.note(id, &error.outcome());
            self.host_is_well();
        }
    }

    fn make_ready(&self, payload: &Payload, slot: usize) {
        match self.prepare(payload, slot) {
            Ok(ready) => self.ready.send(Event::Start(Box::new(ready))),
            Err(error) => {
                self.not_started(payload.id, &payload.loc, &error);
                self.free_slot(slot);
                self.ready.wake();
            }
        }
    }

    fn begin_outage(&self, obstacle: Obstacle) {
        let now = Instant::now();
        let mut slots = self.slots();
        let retry_at = Some(now + obstacle.pause());
        if let Some(outage) = &mut slots.outage {
            (outage.obstacle, outage.retry_at) = (obstacle, retry_at);
            return;
        }
        let is_told = slots.quiet_until.is_none_or(|until| until <= now);
        match &obstacle {
            _ if !is_told => {}
            Obstacle::Lack(reason) => {
                event!(Error, "payloads cannot be started now, and wait", reason = reason.as_str());
            }
            Obstacle::Strain(reason) => {
                event!(Warn, "payloads wait: the host is over a bound", reason = reason.as_str());
            }
        }
        slots.outage = Some(Outage { obstacle, since: now, is_told, retry_at });
    }

    /// The record that says `Running` is taken back: a next life would end the payload otherwise. If that fails, it is owed.
    fn put_back(&self, id: PayloadId) {
        match self.ends.store.put_back(id) {
            Ok(Some(payload)) => {
                let _ = self.ends.records.note(payload.id);
            }
            Ok(None) => {
                self.ends.note(id, &Outcome::not_started(Status::Killed, "it was killed before its start"));
            }
            Err(error) => event!(Error, "cannot let a payload wait", payload = id, error = error.to_string()),
        }
    }

    /// Whether the host is to blame, and the payload may well be started later. Never where only this one payload is concerned:
    /// all others would wait behind it.
    fn is_of_host(&self, error: &StartError, directory: &Path) -> bool {
        if matches!(error, StartError::Room(_)) {
            return true;
        }
        let Some(error) = error.of_system() else { return false };
        if is_shortage(error) {
            return true;
        }
        self.data_path.suspect(error);
        if self.data_path.trouble_now().is_some() {
            return true;
        }
        // The disk has gone and come back in between.
        let is_missing = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        is_missing && directory.is_dir()
    }

    /// The lock is held over the claim: who finds no slot can rely on it that the one who has the last one looks again.
    fn claim(&self, is_allowed: impl Fn(&Slots) -> bool) -> Option<(Payload, usize)> {
        let mut slots = self.slots();
        if slots.is_closed || !is_allowed(&slots) {
            return None;
        }
        let slot = slots.taken.iter().position(|is_taken| !is_taken)?;
        let claimed = self.ends.store.claim();
        let claimed = claimed.inspect_err(|error| {
            event!(Error, "cannot claim a payload", error = error.to_string());
        });
        let payload = claimed.ok().flatten()?;
        slots.taken[slot] = true;
        Some((payload, slot))
    }

    fn prepare(&self, payload: &Payload, slot: usize) -> Result<Ready, StartError> {
        let claimed = Instant::now();
        let directory: Arc<Path> = payload.loc.as_path().into();
        script::check(&directory)?;
        let grant = self.grant_of(payload, &directory)?;
        let streams = self.launcher.open_streams(payload.id, &directory)?;
        temporary::make(&directory).map_err(StartError::Temporary)?;
        self.hand_over.give(&directory, slot).map_err(StartError::Owner)?;
        streams.give(self.hand_over.user_of(slot)).map_err(StartError::Owner)?;
        let mut plan = self.launcher.plan(&directory, slot, &grant).map_err(StartError::Plan)?;
        let group = self.group(payload.id, &grant);
        plan.isolation.enforced.extend(limits::kept(&grant, group.as_deref(), self.usable_processors));
        if let Err(error) = self.ends.store.set_isolation(payload.id, &plan.isolation) {
            event!(Error, "cannot note what is enforced", payload = payload.id, error = error.to_string());
        }
        // Before the start: whatever happens from here on, no later life runs it again.
        self.ends.records.note(payload.id).map_err(StartError::Record)?;
        Ok(Ready { id: payload.id, slot, directory, streams, claimed, grant, group, plan })
    }

    /// Without it what the payload uses is looked at.
    fn group(&self, id: PayloadId, grant: &Grant) -> Option<Arc<Group>> {
        let group = self.cgroups.as_ref()?.group(grant);
        let group = group.inspect_err(|error| {
            event!(Warn, "a payload has no cgroup", payload = id, error = error.to_string());
        });
        group.ok().map(Arc::new)
    }

    /// What it asks for, its form before its script, where that is no more than this client grants: another one may have taken it in.
    fn grant_of(&self, payload: &Payload, directory: &Path) -> Result<Grant, StartError> {
        let of_form = payload.asked.as_deref().map(Request::of_text).transpose()?;
        let request = of_form.unwrap_or_default().or(script::request(directory)?);
        Ok(request.within(&self.grant)?)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what a payload without processes has in the way of temporary files. What the disk does not let go is removed by the next
/// start of the client. May wait for the disk.
pub(super) fn remove_temporary(id: PayloadId, directory: &Path) {
    if let Err(error) = temporary::remove(directory) {
        event!(
            Warn,
            "cannot remove the temporary files of a payload; the next start of the client does",
            payload = id,
            error = error
        );
    }
}

/// Whether the system has run out of something that comes back: processes, memory, descriptors, room on the disk.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let is_shortage = matches!(errno, Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE));
    is_shortage || matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
