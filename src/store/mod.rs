//! The rows of all payloads, in an in-memory SQLite database behind one mutex.
//! Every change of status is a compare-and-set in SQL, so that kill, exit and clean-up cannot overwrite one another.
//! `rusqlite` is named here only. Each call takes microseconds and never yields.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::{MonotonicMs, monotonic_ms, now_ms};
use crate::metrics;
use crate::payload::{Isolation, LeftOver, Outcome, Payload, PayloadId, Status, Usage};

const SCHEMA: &str = include_str!("schema.sql");

/// A statement that gives rows in the form that [`payload_of`] reads.
macro_rules! with_columns {
    ($($sql:literal),* $(; $rest:literal)?) => {
        concat!(
            $($sql,)*
            " id, status, unnoted, loc, pid, killed, exit_code, signal, error, created_at, started_at, finished_at, ",
            "wall_s, user_s, system_s, max_rss_bytes, left_over, told, asked, unwanted, idempotency_key, isolation ",
            $($rest)?
        )
    };
}

/// A page of the newest, of any status and of one.
const NEWEST: &str = with_columns!("SELECT"; "FROM payload WHERE id < ?1 ORDER BY id DESC LIMIT ?2");
const NEWEST_OF_STATUS: &str =
    with_columns!("SELECT"; "FROM payload WHERE id < ?1 AND status = ?3 ORDER BY id DESC LIMIT ?2");

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused; in memory this means that memory is used up, or a bug.
    #[error("the database failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// As many payloads wait as may.
    #[error("MAX_QUEUE payloads wait already")]
    QueueFull,
}

/// What [`Store::kill`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// It runs: its processes are still to be ended, and the kill to be noted.
    Running,
    /// It waits, and will not be started: the kill is still to be noted.
    Waiting,
    /// It had ended before, which is still to be noted.
    EndedUnnoted,
    /// It has been killed before, which is noted; its processes are being ended.
    Ending,
    /// It had ended before; its status stays.
    Ended,
}

/// How many payloads wait and run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Payloads with status `Prepared`.
    pub waiting: u32,
    /// Payloads that have been started and have not ended.
    pub running: u32,
}

/// A handle to the one database; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
    /// Told of each payload that has ended.
    on_end: Arc<Told>,
    /// Told of each payload that has been started.
    on_start: Arc<OnceLock<Box<Told>>>,
}

type Told = dyn Fn(PayloadId) + Send + Sync;

struct Inner {
    connection: Connection,
    /// How many payloads are `Prepared`: each upload asks, and counting rows would slow down with the queue.
    waiting: u32,
}

impl Store {
    /// A new, empty database. `on_end` is called, with no lock held, with each payload that has ended.
    pub fn open(on_end: impl Fn(PayloadId) + Send + Sync + 'static) -> Result<Self, StoreError> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(SCHEMA)?;
        connection.set_prepared_statement_cache_capacity(32);
        let inner = Arc::new(Mutex::new(Inner { connection, waiting: 0 }));
        Ok(Self { inner, on_end: Arc::new(on_end), on_start: Arc::default() })
    }

    /// `told` is called, with no lock held, with each payload that has been started. The first call counts.
    pub fn when_started(&self, told: impl Fn(PayloadId) + Send + Sync + 'static) {
        let _ = self.on_start.set(Box::new(told));
    }

    /// A panic while the lock is held would end the process, so a poisoned lock is only met in tests.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a payload to those that wait, unless `max_waiting` wait already.
    pub fn add(&self, payload: &Payload, max_waiting: u32) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if inner.waiting >= max_waiting {
            return Err(StoreError::QueueFull);
        }
        inner.insert(payload, MonotonicMs::MAX)?;
        metrics::PAYLOADS.add(payload.status.word());
        Ok(())
    }

    /// Adds a payload of an earlier life, whatever its status. One whose result nobody has fetched counts as no older than `oldest`.
    pub fn restore(&self, payload: &Payload, oldest: MonotonicMs) -> Result<(), StoreError> {
        self.lock().insert(payload, oldest)
    }

    /// How many payloads wait.
    pub fn waiting(&self) -> u32 {
        self.lock().waiting
    }

    /// The payload with this id. In a box, since the small stacks of coroutines should not hold copies of it.
    pub fn get(&self, id: PayloadId) -> Result<Option<Box<Payload>>, StoreError> {
        let sql = with_columns!("SELECT"; "FROM payload WHERE id = ?1");
        let inner = self.lock();
        let mut statement = inner.connection.prepare_cached(sql)?;
        Ok(statement.query_row(params![id], |row| payload_of(row).map(Box::new)).optional()?)
    }

    /// The payload that was sent with this idempotency key.
    pub fn by_key(&self, key: &str) -> Result<Option<Box<Payload>>, StoreError> {
        let sql = with_columns!("SELECT"; "FROM payload WHERE idempotency_key = ?1 ORDER BY id DESC LIMIT 1");
        let inner = self.lock();
        let mut statement = inner.connection.prepare_cached(sql)?;
        Ok(statement.query_row(params![key], |row| payload_of(row).map(Box::new)).optional()?)
    }

    /// The newest payloads, of one status or of any, below an id: `most` of them at the most, the newest first. It takes as long
    /// with many payloads as with few.
    pub fn newest(
        &self,
        status: Option<Status>,
        below: Option<PayloadId>,
        most: u32,
    ) -> Result<Vec<Payload>, StoreError> {
        let below = below.map_or(i64::MAX, i64::from);
        let inner = self.lock();
        match status {
            None => inner.list(NEWEST, params![below, most], payload_of),
            Some(status) => {
                inner.list(NEWEST_OF_STATUS, params![below, most, status.to_string()], payload_of)
            }
        }
    }

    /// Takes the payload that waits the longest: `Prepared` becomes `Running`.
    pub fn claim(&self) -> Result<Option<Payload>, StoreError> {
        let sql = with_columns!(
            "UPDATE payload SET status = 'Running', started_at = ?1 WHERE id = ",
            "(SELECT id FROM payload INDEXED BY payload_waiting ",
            "WHERE status = 'Prepared' AND unnoted IS NULL ORDER BY id LIMIT 1) RETURNING";
            ", queued_clock"
        );
        let mut inner = self.lock();
        if inner.waiting == 0 {
            return Ok(None);
        }
        let mut statement = inner.connection.prepare_cached(sql)?;
        let pair = |row: &Row<'_>| Ok((payload_of(row)?, row.get("queued_clock")?));
        let claimed: Option<(Payload, MonotonicMs)> =
            statement.query_row(params![now_ms()], pair).optional()?;
        drop(statement);
        inner.waiting -= u32::from(claimed.is_some());
        Ok(claimed.map(|(payload, queued)| {
            let waited_ms = u64::try_from(monotonic_ms() - queued).unwrap_or(0);
            metrics::WAITED.add(Duration::from_millis(waited_ms));
            payload
        }))
    }

    /// Lets a payload wait again that was claimed and could not be started. Gives it; `None` if it has been killed meanwhile.
    pub fn put_back(&self, id: PayloadId) -> Result<Option<Payload>, StoreError> {
        let sql = with_columns!(
            "UPDATE payload SET status = 'Prepared', started_at = NULL, pid = NULL, isolation = NULL ",
            "WHERE id = ?1 AND status = 'Running' AND unnoted IS NULL RETURNING"
        );
        let mut inner = self.lock();
        let waits = inner.one(sql, params![id]).optional()?;
        inner.waiting += u32::from(waits.is_some());
        Ok(waits)
    }

    /// The payloads that have a record: all that are not cleaned.
    pub fn known(&self) -> Result<Vec<PayloadId>, StoreError> {
        self.lock()
            .list("SELECT id FROM payload WHERE cleaned_clock IS NULL ORDER BY id", [], |row| row.get(0))
    }

    /// The payload that waits the longest.
    pub fn next_waiting(&self) -> Result<Option<Payload>, StoreError> {
        let sql = with_columns!(
            "SELECT";
            "FROM payload INDEXED BY payload_waiting WHERE status = 'Prepared' AND unnoted IS NULL ORDER BY id LIMIT 1"
        );
        Ok(self.lock().one(sql, []).optional()?)
    }

    /// Notes the process of a payload that has been started.
    pub fn set_pid(&self, id: PayloadId, pid: u32) -> Result<(), StoreError> {
        let sql = "UPDATE payload SET pid = ?2 WHERE id = ?1";
        self.lock().change(sql, params![id, pid])?;
        metrics::PAYLOADS.add(Status::Running.word());
        if let Some(told) = self.on_start.get() {
            told(id);
        }
        Ok(())
    }

    /// Notes what is enforced for a payload that is about to be started.
    pub fn set_isolation(&self, id: PayloadId, isolation: &Isolation) -> Result<(), StoreError> {
        let sql = "UPDATE payload SET isolation = ?2 WHERE id = ?1";
        self.lock().change(sql, params![id, isolation.to_json()])?;
        Ok(())
    }

    /// Takes down the end of a payload, as [`Payload::ended`] has it. A kill that came before it stays, with its reason. Nobody is told
    /// before [`Store::confirm`]. Gives whether it had no end yet.
    pub fn finish(&self, id: PayloadId, outcome: &Outcome) -> Result<bool, StoreError> {
        let sql = "UPDATE payload SET unnoted = CASE WHEN killed THEN 'Killed' ELSE ?2 END, \
                   error = coalesce(error, ?3), exit_code = ?4, signal = ?5, finished_at = ?6, \
                   wall_s = ?7, user_s = ?8, system_s = ?9, max_rss_bytes = ?10, left_over = ?11 \
                   WHERE id = ?1 AND finished_at IS NULL";
        let Outcome { status, exit_code, signal, error, left_over, usage } = outcome;
        let params = params![
            id,
            status.to_string(),
            error,
            exit_code,
            signal,
            now_ms(),
            usage.wall_s,
            usage.user_s,
            usage.system_s,
            clamped(usage.max_rss_bytes),
            left_over.map(|left_over| left_over.to_string()),
        ];
        Ok(self.lock().change(sql, params)? == 1)
    }

    /// Adds to the reason of an end that is not noted yet. Gives the payload.
    pub fn add_reason(&self, id: PayloadId, reason: &str) -> Result<Payload, StoreError> {
        let sql = with_columns!(
            "UPDATE payload SET error = coalesce(error || '; ', '') || ?2 WHERE id = ?1 RETURNING"
        );
        Ok(self.lock().one(sql, params![id, reason])?)
    }

    /// Notes that the disk does not take the end of a payload now.
    pub fn refuse(&self, id: PayloadId) -> Result<(), StoreError> {
        let sql = "UPDATE payload SET refused = 1 \
                   WHERE id = ?1 AND status <> 'Prepared' AND unnoted IS NOT NULL AND finished_at IS NOT NULL";
        self.lock().change(sql, params![id])?;
        Ok(())
    }

    /// Whether the disk does not take the end of a payload.
    pub fn is_refused(&self, id: PayloadId) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM payload WHERE id = ?1 AND unnoted IS NOT NULL AND refused)";
        let inner = self.lock();
        Ok(inner.connection.prepare_cached(sql)?.query_row(params![id], |row| row.get(0))?)
    }

    /// Kills a payload that waits or runs, for `reason` and for good: it is not started from here on. Its status follows when that
    /// is on the disk, by [`Store::confirm`], so that nobody is told what a next life would not know. `None` if the id is
    /// unknown.
    pub fn kill(&self, id: PayloadId, reason: &str) -> Result<Option<Killed>, StoreError> {
        let mut inner = self.lock();
        let waiting = "UPDATE payload SET killed = 1, unnoted = 'Killed', error = ?2, finished_at = ?3 \
                       WHERE id = ?1 AND status = 'Prepared' AND unnoted IS NULL";
        if inner.change(waiting, params![id, reason, now_ms()])? == 1 {
            inner.waiting -= 1;
            return Ok(Some(Killed::Waiting));
        }
        let running = "UPDATE payload SET killed = 1, unnoted = 'Killed', error = ?2 \
                       WHERE id = ?1 AND status = 'Running' AND unnoted IS NULL";
        if inner.change(running, params![id, reason])? == 1 {
            return Ok(Some(Killed::Running));
        }
        // Whoever asks twice while that is being noted, or the processes are being ended, is told the same as the first.
        let mut statement = inner.connection.prepare_cached(
            "SELECT status, finished_at IS NULL, unnoted IS NULL FROM payload WHERE id = ?1",
        )?;
        let found = statement.query_row(params![id], |row| {
            let (is_open, is_noted): (bool, bool) = (row.get(1)?, row.get(2)?);
            Ok(match status_of(row.get_ref(0)?.as_str()?)? {
                Status::Prepared => Killed::Waiting,
                _ if !is_open && !is_noted => Killed::EndedUnnoted,
                Status::Running => Killed::Running,
                Status::Killed if is_open => Killed::Ending,
                _ => Killed::Ended,
            })
        });
        Ok(found.optional()?)
    }

    /// Tells that a payload is on the disk as it was in `noted`, its kill or its end: from here on its status says so. An end that
    /// has come since is still to be noted.
    pub fn confirm(&self, noted: &Payload) -> Result<(), StoreError> {
        let sql = "UPDATE payload SET status = unnoted, \
                   unnoted = CASE WHEN finished_at IS ?2 THEN NULL ELSE unnoted END, \
                   ended_clock = CASE WHEN finished_at IS ?2 AND finished_at IS NOT NULL THEN ?3 END \
                   WHERE id = ?1 AND unnoted IS NOT NULL RETURNING finished_at IS ?2 AND finished_at IS NOT NULL";
        let has_ended = {
            let inner = self.lock();
            let mut statement = inner.connection.prepare_cached(sql)?;
            let params = params![noted.id, noted.finished_at, monotonic_ms()];
            statement.query_row(params, |row| row.get(0)).optional()?
        };
        if has_ended == Some(true) {
            metrics::PAYLOADS.add(noted.unnoted.unwrap_or(noted.status).word());
            (self.on_end)(noted.id);
        }
        Ok(())
    }

    /// Kills all payloads that wait, as [`Store::kill`] does one. Gives those that had not been killed before.
    pub fn kill_waiting(&self, reason: &str) -> Result<Vec<PayloadId>, StoreError> {
        let sql = "UPDATE payload INDEXED BY payload_waiting \
                   SET killed = 1, unnoted = 'Killed', error = ?1, finished_at = ?2 \
                   WHERE status = 'Prepared' AND unnoted IS NULL RETURNING id";
        let mut inner = self.lock();
        if inner.waiting == 0 {
            return Ok(Vec::new());
        }
        let killed = inner.list(sql, params![reason, now_ms()], |row| row.get(0))?;
        inner.waiting = 0;
        Ok(killed)
    }

    /// Marks the payloads that ended before `cutoff` as `Cleaned`. Gives the directories to remove, with their ids.
    pub fn clean(&self, cutoff: MonotonicMs) -> Result<Vec<(PayloadId, PathBuf)>, StoreError> {
        let sql = "UPDATE payload SET status = 'Cleaned', cleaned_clock = ?2 \
                   WHERE cleaned_clock IS NULL AND ended_clock < ?1 RETURNING id, loc";
        let pair = |row: &Row<'_>| Ok((row.get(0)?, path_of(row, 1)?));
        let cleaned = self.lock().list(sql, params![cutoff, monotonic_ms()], pair)?;
        metrics::PAYLOADS.add_many(Status::Cleaned.word(), cleaned.len() as u64);
        Ok(cleaned)
    }

    /// Notes that a payload is to be removed as soon as it has ended.
    pub fn set_unwanted(&self, id: PayloadId) -> Result<(), StoreError> {
        self.lock().change("UPDATE payload SET unwanted = 1 WHERE id = ?1", params![id])?;
        Ok(())
    }

    /// Marks those as `Cleaned` that have ended and are unwanted: this payload, or all. Gives the directories to remove, with their
    /// ids.
    pub fn clean_unwanted(&self, only: Option<PayloadId>) -> Result<Vec<(PayloadId, PathBuf)>, StoreError> {
        let sql = "UPDATE payload SET status = 'Cleaned', cleaned_clock = ?2 WHERE unwanted = 1 AND cleaned_clock IS NULL \
                   AND ended_clock IS NOT NULL AND (?1 IS NULL OR id = ?1) RETURNING id, loc";
        let pair = |row: &Row<'_>| Ok((row.get(0)?, path_of(row, 1)?));
        let cleaned = self.lock().list(sql, params![only, monotonic_ms()], pair)?;
        metrics::PAYLOADS.add_many(Status::Cleaned.word(), cleaned.len() as u64);
        Ok(cleaned)
    }

    /// Deletes the rows that were cleaned before `cutoff`. Gives their number.
    pub fn forget(&self, cutoff: MonotonicMs) -> Result<usize, StoreError> {
        self.lock().change("DELETE FROM payload WHERE cleaned_clock < ?1", params![cutoff])
    }

    /// Notes that somebody has fetched the result of a payload. Gives whether he was the first.
    pub fn set_told(&self, id: PayloadId) -> Result<bool, StoreError> {
        Ok(self.lock().change("UPDATE payload SET told = 1 WHERE id = ?1 AND told = 0", params![id])? == 1)
    }

    /// Notes how long the archive of a payload is that has this fingerprint.
    pub fn set_archive_bytes(&self, id: PayloadId, fingerprint: u64, bytes: u64) -> Result<(), StoreError> {
        let sql = "UPDATE payload SET zip_print = ?2, zip_bytes = ?3 WHERE id = ?1";
        self.lock().change(sql, params![id, fingerprint.cast_signed(), clamped(bytes)])?;
        Ok(())
    }

    /// How long the archive of a payload is, where that is known of the one with this fingerprint.
    pub fn archive_bytes(&self, id: PayloadId, fingerprint: u64) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT zip_bytes FROM payload WHERE id = ?1 AND zip_print = ?2";
        let inner = self.lock();
        let mut statement = inner.connection.prepare_cached(sql)?;
        let bytes = statement.query_row(params![id, fingerprint.cast_signed()], |row| row.get::<_, i64>(0));
        Ok(bytes.optional()?.and_then(|bytes| u64::try_from(bytes).ok()))
    }

    /// Whether a payload has ended since then whose result nobody has fetched.
    pub fn has_untold(&self, since: MonotonicMs) -> Result<bool, StoreError> {
        let inner = self.lock();
        let sql = "SELECT EXISTS (SELECT 1 FROM payload WHERE cleaned_clock IS NULL AND ended_clock >= ?1 AND NOT told)";
        Ok(inner.connection.prepare_cached(sql)?.query_row(params![since], |row| row.get(0))?)
    }

    /// How many payloads wait and run; also the proof that the database answers.
    pub fn counts(&self) -> Result<Counts, StoreError> {
        let inner = self.lock();
        let sql = "SELECT count(*) FROM payload WHERE started_at IS NOT NULL AND finished_at IS NULL";
        let running = inner.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(Counts { waiting: inner.waiting, running })
    }
}

impl Inner {
    /// `oldest`: no payload counts as older whose result nobody has fetched.
    fn insert(&mut self, payload: &Payload, oldest: MonotonicMs) -> Result<(), StoreError> {
        let sql = "INSERT INTO payload (id, status, loc, pid, killed, exit_code, signal, error, created_at, started_at, \
                   finished_at, wall_s, user_s, system_s, max_rss_bytes, ended_clock, left_over, told, unnoted, \
                   asked, queued_clock, unwanted, idempotency_key, isolation) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
                   ?22, ?23, ?24)";
        let usage = payload.usage;
        // One of an earlier life is as old as the wall clock says, which may have been set since; from here on it ages by the other
        // clock.
        let oldest = if payload.is_told { MonotonicMs::MAX } else { oldest.max(0) };
        let ended_at = payload.finished_at.filter(|_| payload.unnoted.is_none());
        let ended_clock = ended_at.map(|at| monotonic_ms() - (now_ms() - at).clamp(0, oldest));
        self.change(
            sql,
            params![
                payload.id,
                payload.status.to_string(),
                payload.loc.as_os_str().as_bytes(),
                payload.pid,
                payload.killed,
                payload.exit_code,
                payload.signal,
                payload.error,
                payload.created_at,
                payload.started_at,
                payload.finished_at,
                usage.wall_s,
                usage.user_s,
                usage.system_s,
                clamped(usage.max_rss_bytes),
                ended_clock,
                payload.left_over.map(|left_over| left_over.to_string()),
                payload.is_told,
                payload.unnoted.map(|status| status.to_string()),
                payload.asked,
                monotonic_ms(),
                payload.is_unwanted,
                payload.idempotency_key,
                payload.isolation.as_ref().map(Isolation::to_json),
            ],
        )?;
        self.waiting += u32::from(payload.status == Status::Prepared && payload.unnoted.is_none());
        Ok(())
    }

    fn one(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Payload> {
        self.connection.prepare_cached(sql)?.query_row(params, payload_of)
    }

    fn change(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize, StoreError> {
        Ok(self.connection.prepare_cached(sql)?.execute(params)?)
    }

    fn list<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        item: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params, item)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// SQLite's integers are signed.
fn clamped(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn payload_of(row: &Row<'_>) -> rusqlite::Result<Payload> {
    Ok(Payload {
        id: row.get(0)?,
        status: status_of(row.get_ref(1)?.as_str()?)?,
        unnoted: row.get_ref(2)?.as_str_or_null()?.map(status_of).transpose()?,
        loc: path_of(row, 3)?,
        pid: row.get(4)?,
        killed: row.get(5)?,
        exit_code: row.get(6)?,
        signal: row.get(7)?,
        error: row.get(8)?,
        created_at: row.get(9)?,
        started_at: row.get(10)?,
        finished_at: row.get(11)?,
        usage: Usage {
            wall_s: row.get(12)?,
            user_s: row.get(13)?,
            system_s: row.get(14)?,
            max_rss_bytes: u64::try_from(row.get::<_, i64>(15)?).unwrap_or(0),
        },
        left_over: left_over_of(row.get_ref(16)?.as_str_or_null()?)?,
        is_told: row.get(17)?,
        asked: row.get(18)?,
        is_unwanted: row.get(19)?,
        idempotency_key: row.get(20)?,
        isolation: row.get_ref(21)?.as_str_or_null()?.and_then(Isolation::from_json),
    })
}

/// A path need not be UTF-8.
fn path_of(row: &Row<'_>, index: usize) -> rusqlite::Result<PathBuf> {
    Ok(OsString::from_vec(row.get(index)?).into())
}

fn status_of(word: &str) -> rusqlite::Result<Status> {
    Status::from_word(word).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn left_over_of(word: Option<&str>) -> rusqlite::Result<Option<LeftOver>> {
    word.map(LeftOver::from_word).transpose().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(16, rusqlite::types::Type::Text, Box::new(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::StatementStatus;

    fn add(store: &Store, id: PayloadId) -> PayloadId {
        store.add(&Payload::prepared(id, format!("/{id}").into()), u32::MAX).expect("added");
        id
    }

    fn complete(store: &Store, id: PayloadId) -> Option<Status> {
        let outcome = Outcome {
            status: Status::Completed,
            exit_code: Some(0),
            signal: None,
            error: None,
            left_over: None,
            usage: Usage::default(),
        };
        store.finish(id, &outcome).expect("answers").then(|| {
            confirm(store, id);
            status(store, id)
        })
    }

    fn confirm(store: &Store, id: PayloadId) {
        store.confirm(&store.get(id).expect("answers").expect("known")).expect("answers");
    }

    fn status(store: &Store, id: PayloadId) -> Status {
        store.get(id).expect("answers").expect("known").status
    }

    #[test]
    fn what_was_added_comes_back_as_it_was() {
        let store = Store::open(|_| ()).expect("opens");
        let usage = Usage { wall_s: 1.5, user_s: 0.25, system_s: 0.125, max_rss_bytes: u64::MAX >> 1 };
        let failed = Outcome {
            status: Status::Failed,
            exit_code: Some(3),
            signal: Some(9),
            error: Some("why".to_owned()),
            left_over: Some(LeftOver::Killed),
            usage,
        };
        let ended = Payload {
            pid: Some(4242),
            started_at: Some(5),
            asked: Some("time_limit=2h".to_owned()),
            idempotency_key: Some("key".to_owned()),
            isolation: Some(Isolation { enforced: vec!["seccomp".to_owned()], missing: Vec::new() }),
            ..Payload::prepared(8, "/ended".into()).ended(&failed).noted()
        };
        store.restore(&ended, MonotonicMs::MAX).expect("restored");
        assert_eq!(store.by_key("other").expect("answers"), None);
        assert_eq!(store.by_key("key").expect("answers"), Some(Box::new(ended.clone())));
        assert_eq!(store.get(8).expect("answers"), Some(Box::new(ended)));
        assert_eq!(store.counts().expect("answers"), Counts::default());
    }

    #[test]
    fn a_length_is_that_of_one_archive() {
        let store = Store::open(|_| ()).expect("opens");
        let id = add(&store, 1);
        assert_eq!(store.archive_bytes(id, 5).expect("answers"), None);
        store.set_archive_bytes(id, u64::MAX, 7).expect("answers");
        assert_eq!(store.archive_bytes(id, u64::MAX).expect("answers"), Some(7));
        assert_eq!(store.archive_bytes(id, 5).expect("answers"), None);
    }

    #[test]
    fn no_more_wait_than_may() {
        let store = Store::open(|_| ()).expect("opens");
        let add = |id| store.add(&Payload::prepared(id, PathBuf::new()), 2);
        assert!(add(1).is_ok() && add(2).is_ok());
        assert!(matches!(add(3), Err(StoreError::QueueFull)));
        store.claim().expect("answers");
        assert!(add(3).is_ok());
        assert_eq!(store.waiting(), 2);
        store.kill(2, "reason").expect("answers");
        assert_eq!(store.kill_waiting("stop").expect("answers"), [3]);
        assert_eq!(store.kill_waiting("stop").expect("answers"), []);
        assert_eq!(store.counts().expect("answers"), Counts { waiting: 0, running: 1 });
        assert_eq!(status(&store, 3), Status::Prepared, "it is not on the disk yet");
        confirm(&store, 3);
        assert_eq!(status(&store, 3), Status::Killed);
    }

    #[test]
    fn the_oldest_is_claimed_first_and_only_once() {
        let store = Store::open(|_| ()).expect("opens");
        let ids: Vec<PayloadId> = (1..=3).map(|id| add(&store, id)).collect();
        for id in ids {
            let claimed = store.claim().expect("answers").expect("one waits");
            assert_eq!((claimed.id, claimed.status), (id, Status::Running));
        }
        assert_eq!(store.claim().expect("answers"), None);
    }

    #[test]
    fn a_kill_and_an_end_cannot_overwrite_each_other() {
        let store = Store::open(|_| ()).expect("opens");
        let id = add(&store, 1);
        store.claim().expect("answers");
        for reason in ["first", "second"] {
            assert_eq!(store.kill(id, reason).expect("answers"), Some(Killed::Running));
            assert_eq!(status(&store, id), Status::Running, "it is not on the disk yet");
        }
        confirm(&store, id);
        assert_eq!(store.kill(id, "third").expect("answers"), Some(Killed::Ending));
        assert_eq!(complete(&store, id), Some(Status::Killed));
        assert_eq!(complete(&store, id), None);
        assert_eq!(store.kill(id, "fourth").expect("answers"), Some(Killed::Ended));
        let payload = store.get(id).expect("answers").expect("known");
        assert_eq!(
            (payload.exit_code, payload.error.as_deref(), payload.killed),
            (Some(0), Some("first"), true)
        );

        let id = add(&store, 2);
        store.claim().expect("answers");
        assert_eq!(complete(&store, id), Some(Status::Completed));
        assert_eq!(store.kill(id, "late").expect("answers"), Some(Killed::Ended));
        confirm(&store, id);
        assert_eq!(status(&store, id), Status::Completed);
        assert_eq!(store.kill(id + 1, "unknown").expect("answers"), None);
    }

    #[test]
    fn what_was_put_back_is_claimed_again_unless_it_was_killed() {
        let store = Store::open(|_| ()).expect("opens");
        let ids = [1, 2].map(|id| add(&store, id));
        let claim = || store.claim().expect("answers").map(|payload| payload.id);
        assert_eq!((claim(), store.waiting()), (Some(ids[0]), 1));
        let waits = store.put_back(ids[0]).expect("answers").expect("it waits");
        assert_eq!((waits.status, waits.started_at, store.waiting()), (Status::Prepared, None, 2));
        assert_eq!(store.next_waiting().expect("answers"), Some(waits));
        assert_eq!((claim(), claim(), claim()), (Some(ids[0]), Some(ids[1]), None));
        store.kill(ids[0], "reason").expect("answers");
        assert_eq!(store.put_back(ids[0]).expect("answers"), None);
        assert_eq!(store.next_waiting().expect("answers"), None);
    }

    #[test]
    fn a_killed_waiting_payload_is_never_claimed() {
        let store = Store::open(|_| ()).expect("opens");
        let id = add(&store, 1);
        assert_eq!(store.kill(id, "reason").expect("answers"), Some(Killed::Waiting));
        assert_eq!(store.claim().expect("answers"), None);
        assert_eq!(store.counts().expect("answers"), Counts::default());
        assert_eq!(store.kill(id, "again").expect("answers"), Some(Killed::Waiting));
        confirm(&store, id);
        assert_eq!((status(&store, id), store.waiting()), (Status::Killed, 0));
        assert_eq!(store.kill(id, "late").expect("answers"), Some(Killed::Ended));
    }

    #[test]
    fn what_is_not_on_the_disk_is_neither_told_nor_cleaned() {
        let store = Store::open(|_| ()).expect("opens");
        let failed = Outcome { signal: Some(9), ..Outcome::not_started(Status::Failed, "ended by a signal") };
        for (id, is_killed) in [(1, false), (2, true)] {
            add(&store, id);
            store.claim().expect("answers");
            let before = store.get(id).expect("answers").expect("known");
            if is_killed {
                store.kill(id, "reason").expect("answers");
            }
            assert!(store.finish(id, &failed).expect("answers"));
            assert!(!store.finish(id, &failed).expect("answers"), "it has an end");
            let kept = store.get(id).expect("answers").expect("known");
            assert!(kept.is_end_unnoted() && !kept.has_ended(), "{kept:?}");
            let json = |payload: &Payload| payload.to_json().split(",\"usage\"").next().map(str::to_owned);
            assert_eq!(json(&kept), json(&before));
            assert_eq!(store.kill(id, "late").expect("answers"), Some(Killed::EndedUnnoted));
            assert_eq!(store.clean(MonotonicMs::MAX).expect("answers"), []);
            assert!(!store.is_refused(id).expect("answers"));
            store.refuse(id).expect("answers");
            assert!(store.is_refused(id).expect("answers"));
            confirm(&store, id);
            assert!(!store.is_refused(id).expect("answers"));
            assert_eq!(status(&store, id), if is_killed { Status::Killed } else { Status::Failed });
            assert_eq!(store.kill(id, "late").expect("answers"), Some(Killed::Ended));
            assert_eq!(store.clean(MonotonicMs::MAX).expect("answers").len(), 1);
        }
    }

    #[test]
    fn an_end_that_comes_while_a_kill_is_noted_is_still_to_be_noted() {
        let store = Store::open(|_| ()).expect("opens");
        let id = add(&store, 1);
        store.claim().expect("answers");
        store.kill(id, "reason").expect("answers");
        let killed = store.get(id).expect("answers").expect("known");
        assert!(store.finish(id, &Outcome::not_started(Status::Failed, "why")).expect("answers"));
        store.confirm(&killed).expect("answers");
        let told = store.get(id).expect("answers").expect("known");
        assert!(told.status == Status::Killed && told.is_end_unnoted(), "{told:?}");
        assert!(
            told.to_json().contains("\"killed\":true,") && told.to_json().contains("\"finished_at\":null")
        );
        confirm(&store, id);
        assert!(store.get(id).expect("answers").expect("known").has_ended());
    }

    #[test]
    fn a_result_is_untold_until_it_is_fetched() {
        let store = Store::open(|_| ()).expect("opens");
        let start = monotonic_ms();
        let id = add(&store, 1);
        assert!(!store.has_untold(start).expect("answers"));
        store.kill(id, "reason").expect("answers");
        confirm(&store, id);
        assert!(store.has_untold(start).expect("answers"));
        assert!(!store.has_untold(monotonic_ms() + 1000).expect("answers"));
        store.set_told(id).expect("answers");
        assert!(!store.has_untold(start).expect("answers"));
    }

    #[test]
    fn what_nobody_has_fetched_is_no_older_than_it_may_be_whatever_the_times_say() {
        let store = Store::open(|_| ()).expect("opens");
        let failed = Outcome::not_started(Status::Failed, "why");
        // As a clock has it that stood in 1970, and one that was years ahead.
        for (id, finished_at, is_told) in
            [(1, 5, false), (2, 5, true), (3, now_ms() + (1 << 40), false), (4, now_ms() + (1 << 40), true)]
        {
            let ended = Payload::prepared(id, format!("/{id}").into()).ended(&failed).noted();
            let ended = Payload { finished_at: Some(finished_at), is_told, ..ended };
            store.restore(&ended, 10_000).expect("restored");
        }
        let older_than = |age| {
            let cleaned = store.clean(monotonic_ms() - age).expect("answers");
            cleaned.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(older_than(11_000), [2]);
        assert_eq!(older_than(9_000), [1]);
        assert_eq!(older_than(-1_000), [3, 4]);
    }

    #[test]
    fn the_newest_come_first_page_by_page() {
        let store = Store::open(|_| ()).expect("opens");
        for id in 1..=7 {
            add(&store, id);
        }
        for id in [3, 6] {
            store.kill(id, "reason").expect("answers");
            confirm(&store, id);
        }
        let page = |status, below, most| {
            let found = store.newest(status, below, most).expect("answers");
            found.into_iter().map(|payload| payload.id).collect::<Vec<_>>()
        };
        assert_eq!(page(None, None, 3), [7, 6, 5]);
        assert_eq!(page(None, Some(5), 9), [4, 3, 2, 1]);
        assert_eq!(page(Some(Status::Killed), None, 1), [6]);
        assert_eq!(page(Some(Status::Killed), Some(6), 9), [3]);
        assert_eq!(page(Some(Status::Failed), None, 9), []);
    }

    #[test]
    fn a_page_takes_as_many_steps_with_20_000_payloads_as_with_100() {
        let store = Store::open(|_| ()).expect("opens");
        let steps = |store: &Store| {
            [
                (NEWEST, None),
                (NEWEST_OF_STATUS, Some(Status::Prepared)),
                (NEWEST_OF_STATUS, Some(Status::Failed)),
            ]
            .map(|(sql, status)| {
                store.newest(status, None, 10).expect("answers");
                let inner = store.lock();
                let statement = inner.connection.prepare_cached(sql).expect("prepared before");
                statement.reset_status(StatementStatus::VmStep)
            })
        };
        (1..=100).for_each(|id| _ = add(&store, id));
        let few = steps(&store);
        (101..=20_000).for_each(|id| _ = add(&store, id));
        assert_eq!(steps(&store), few);
        assert!(few[0] > 100, "steps are counted: {few:?}");
    }

    #[test]
    fn what_is_unwanted_is_cleaned_once_it_has_ended() {
        let store = Store::open(|_| ()).expect("opens");
        let ids = [1, 2, 3].map(|id| add(&store, id));
        ids[..2].iter().for_each(|id| store.set_unwanted(*id).expect("answers"));
        assert_eq!(store.clean_unwanted(None).expect("answers"), []);
        for id in ids {
            store.kill(id, "reason").expect("answers");
            confirm(&store, id);
        }
        assert_eq!(store.clean_unwanted(Some(ids[2])).expect("answers"), []);
        assert_eq!(store.clean_unwanted(Some(ids[1])).expect("answers"), [(ids[1], "/2".into())]);
        assert_eq!(store.clean_unwanted(None).expect("answers"), [(ids[0], "/1".into())]);
        assert_eq!(ids.map(|id| status(&store, id)), [Status::Cleaned, Status::Cleaned, Status::Killed]);
    }

    #[test]
    fn only_what_has_ended_is_cleaned_and_forgotten() {
        let store = Store::open(|_| ()).expect("opens");
        let ids = [1, 2, 3].map(|id| add(&store, id));
        store.claim().expect("answers");
        complete(&store, ids[0]);
        store.claim().expect("answers");
        store.kill(ids[1], "still being ended").expect("answers");
        let future = monotonic_ms() + 60_000;
        assert_eq!(store.clean(future).expect("answers"), [(ids[0], "/1".into())]);
        assert_eq!(store.clean(future).expect("answers"), []);
        assert_eq!(status(&store, ids[0]), Status::Cleaned);
        assert_eq!(store.counts().expect("answers"), Counts { waiting: 1, running: 1 });
        assert_eq!(store.forget(future).expect("answers"), 1);
        assert_eq!(store.get(ids[0]).expect("answers"), None);
        assert_eq!(status(&store, ids[2]), Status::Prepared);
    }
}
