//! The rows of all payloads, in an in-memory SQLite database behind one mutex.
//! Every change of status is a compare-and-set in SQL, so that kill, exit and clean-up cannot overwrite one another.
//! `rusqlite` is named here only. Each call takes microseconds and never yields.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::payload::{Outcome, Payload, PayloadId, Status, UnixMs, Usage, now_ms};

/// The largest id that is given: the servers keep ids in 32 bits, signed in places.
const LAST_ID: u32 = (1 << 31) - 1;

/// The first id of a life is drawn below this, so that half of the range is left to count up in.
const FIRST_ID_BELOW: u32 = 1 << 30;

const SCHEMA: &str = include_str!("schema.sql");

/// A statement that gives rows in the form that [`payload_of`] reads.
macro_rules! with_columns {
    ($($sql:literal),* $(; $rest:literal)?) => {
        concat!(
            $($sql,)*
            " id, status, loc, pid, killed, exit_code, signal, error, created_at, started_at, finished_at, ",
            "wall_s, user_s, system_s, max_rss_bytes ",
            $($rest)?
        )
    };
}

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused; in memory this means that memory is used up, or a bug.
    #[error("the database failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// All ids of this life are given.
    #[error("all payload ids are used up; restart the client to draw new ones")]
    IdsUsedUp,
}

/// What [`Store::kill`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// It ran: its processes are still to be ended.
    Running,
    /// It waited: it will not be started.
    Waiting,
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
}

struct Inner {
    connection: Connection,
    next_id: PayloadId,
}

impl Store {
    /// A new, empty database. Its ids start at a random place, so that an id of an earlier life is unknown here.
    pub fn open() -> Result<Self, StoreError> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(SCHEMA)?;
        connection.set_prepared_statement_cache_capacity(32);
        let next_id = fastrand::u32(1..FIRST_ID_BELOW);
        Ok(Self { inner: Arc::new(Mutex::new(Inner { connection, next_id })) })
    }

    /// A panic while the lock is held would end the process, so a poisoned lock is only met in tests.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a payload whose files are all on disk at `loc`, as `Prepared`.
    pub fn add(&self, loc: &str) -> Result<Payload, StoreError> {
        let mut inner = self.lock();
        let id = inner.next_id;
        if id > LAST_ID {
            return Err(StoreError::IdsUsedUp);
        }
        let sql = with_columns!(
            "INSERT INTO payload (id, status, loc, created_at) VALUES (?1, 'Prepared', ?2, ?3) RETURNING"
        );
        let payload = inner.one(sql, params![id, loc, now_ms()])?;
        inner.next_id = id + 1;
        Ok(payload)
    }

    /// The payload with this id.
    pub fn get(&self, id: PayloadId) -> Result<Option<Payload>, StoreError> {
        let sql = with_columns!("SELECT"; "FROM payload WHERE id = ?1");
        Ok(self.lock().one(sql, params![id]).optional()?)
    }

    /// Takes the payload that waits the longest: `Prepared` becomes `Running`.
    pub fn claim(&self) -> Result<Option<Payload>, StoreError> {
        let sql = with_columns!(
            "UPDATE payload SET status = 'Running', started_at = ?1 WHERE id = ",
            "(SELECT id FROM payload WHERE status = 'Prepared' ORDER BY id LIMIT 1) RETURNING"
        );
        Ok(self.lock().one(sql, params![now_ms()]).optional()?)
    }

    /// Notes the process of a payload that has been started.
    pub fn set_pid(&self, id: PayloadId, pid: u32) -> Result<(), StoreError> {
        let sql = "UPDATE payload SET pid = ?2 WHERE id = ?1";
        self.lock().change(sql, params![id, pid])?;
        Ok(())
    }

    /// Notes how a payload ended. A payload that has been killed meanwhile stays `Killed`, and its reason stays.
    /// Gives the status that holds now; `None` if the payload had an end already.
    pub fn finish(&self, id: PayloadId, outcome: &Outcome) -> Result<Option<Status>, StoreError> {
        let sql = "UPDATE payload SET status = CASE status WHEN 'Running' THEN ?2 ELSE status END, \
                   error = coalesce(error, ?3), exit_code = ?4, signal = ?5, finished_at = ?6, \
                   wall_s = ?7, user_s = ?8, system_s = ?9, max_rss_bytes = ?10 \
                   WHERE id = ?1 AND finished_at IS NULL RETURNING status";
        let usage = outcome.usage;
        let inner = self.lock();
        let mut statement = inner.connection.prepare_cached(sql)?;
        let word: Option<String> = statement
            .query_row(
                params![
                    id,
                    outcome.status.to_string(),
                    outcome.error,
                    outcome.exit_code,
                    outcome.signal,
                    now_ms(),
                    usage.wall_s,
                    usage.user_s,
                    usage.system_s,
                    i64::try_from(usage.max_rss_bytes).unwrap_or(i64::MAX),
                ],
                |row| row.get(0),
            )
            .optional()?;
        word.map(|word| status_of(&word)).transpose().map_err(StoreError::from)
    }

    /// Marks a payload that waits or runs as `Killed`, for `reason`. `None` if the id is unknown.
    pub fn kill(&self, id: PayloadId, reason: &str) -> Result<Option<Killed>, StoreError> {
        let inner = self.lock();
        let waiting = "UPDATE payload SET status = 'Killed', killed = 1, error = ?2, finished_at = ?3 \
                       WHERE id = ?1 AND status = 'Prepared'";
        if inner.change(waiting, params![id, reason, now_ms()])? == 1 {
            return Ok(Some(Killed::Waiting));
        }
        let running = "UPDATE payload SET status = 'Killed', killed = 1, error = ?2 \
                       WHERE id = ?1 AND status = 'Running'";
        if inner.change(running, params![id, reason])? == 1 {
            return Ok(Some(Killed::Running));
        }
        // Whoever asks twice while the processes are being ended is told the same as the first time.
        let mut statement =
            inner.connection.prepare_cached("SELECT finished_at IS NULL FROM payload WHERE id = ?1")?;
        let still_ending: Option<bool> = statement.query_row(params![id], |row| row.get(0)).optional()?;
        Ok(still_ending.map(|still_ending| if still_ending { Killed::Running } else { Killed::Ended }))
    }

    /// Marks all payloads that wait as `Killed`, for `reason`. Gives their ids.
    pub fn kill_waiting(&self, reason: &str) -> Result<Vec<PayloadId>, StoreError> {
        let sql = "UPDATE payload SET status = 'Killed', killed = 1, error = ?1, finished_at = ?2 \
                   WHERE status = 'Prepared' RETURNING id";
        self.lock().list(sql, params![reason, now_ms()], |row| row.get(0))
    }

    /// Marks the payloads that ended before `cutoff` as `Cleaned`. Gives the directories to remove, with their ids.
    pub fn clean(&self, cutoff: UnixMs) -> Result<Vec<(PayloadId, String)>, StoreError> {
        let sql = "UPDATE payload SET status = 'Cleaned', cleaned_at = ?2 \
                   WHERE cleaned_at IS NULL AND finished_at < ?1 RETURNING id, loc";
        let pair = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        self.lock().list(sql, params![cutoff, now_ms()], pair)
    }

    /// Deletes the rows that were cleaned before `cutoff`. Gives their number.
    pub fn forget(&self, cutoff: UnixMs) -> Result<usize, StoreError> {
        self.lock().change("DELETE FROM payload WHERE cleaned_at < ?1", params![cutoff])
    }

    /// Notes that somebody has fetched the result of a payload.
    pub fn set_told(&self, id: PayloadId) -> Result<(), StoreError> {
        self.lock().change("UPDATE payload SET told = 1 WHERE id = ?1", params![id])?;
        Ok(())
    }

    /// Whether a payload has ended since then whose result nobody has fetched.
    pub fn has_untold(&self, since: UnixMs) -> Result<bool, StoreError> {
        let inner = self.lock();
        let sql = "SELECT EXISTS (SELECT 1 FROM payload WHERE cleaned_at IS NULL AND finished_at >= ?1 AND NOT told)";
        Ok(inner.connection.prepare_cached(sql)?.query_row(params![since], |row| row.get(0))?)
    }

    /// How many payloads wait and run; also the proof that the database answers.
    pub fn counts(&self) -> Result<Counts, StoreError> {
        let inner = self.lock();
        let mut statement = inner.connection.prepare_cached(
            "SELECT (SELECT count(*) FROM payload WHERE status = 'Prepared'), \
             (SELECT count(*) FROM payload WHERE started_at IS NOT NULL AND finished_at IS NULL)",
        )?;
        let counts =
            statement.query_row([], |row| Ok(Counts { waiting: row.get(0)?, running: row.get(1)? }))?;
        Ok(counts)
    }
}

impl Inner {
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

fn payload_of(row: &Row<'_>) -> rusqlite::Result<Payload> {
    Ok(Payload {
        id: row.get(0)?,
        status: status_of(row.get_ref(1)?.as_str()?)?,
        loc: row.get(2)?,
        pid: row.get(3)?,
        killed: row.get(4)?,
        exit_code: row.get(5)?,
        signal: row.get(6)?,
        error: row.get(7)?,
        created_at: row.get(8)?,
        started_at: row.get(9)?,
        finished_at: row.get(10)?,
        usage: Usage {
            wall_s: row.get(11)?,
            user_s: row.get(12)?,
            system_s: row.get(13)?,
            max_rss_bytes: u64::try_from(row.get::<_, i64>(14)?).unwrap_or(0),
        },
    })
}

fn status_of(word: &str) -> rusqlite::Result<Status> {
    Status::from_word(word).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Outcome, Usage};

    fn completed() -> Outcome {
        Outcome {
            status: Status::Completed,
            exit_code: Some(0),
            signal: None,
            error: None,
            usage: Usage::default(),
        }
    }

    fn status(store: &Store, id: PayloadId) -> Status {
        store.get(id).expect("answers").expect("known").status
    }

    #[test]
    fn ids_count_up_from_a_random_start_and_end_before_the_sign_bit() {
        let store = Store::open().expect("opens");
        let first = store.add("/a").expect("added").id;
        assert!((1..FIRST_ID_BELOW).contains(&first));
        assert_eq!(store.add("/b").expect("added").id, first + 1);
        store.lock().next_id = LAST_ID;
        assert_eq!(store.add("/c").expect("added").id, LAST_ID);
        assert!(matches!(store.add("/d"), Err(StoreError::IdsUsedUp)));
    }

    #[test]
    fn the_oldest_is_claimed_first_and_only_once() {
        let store = Store::open().expect("opens");
        let ids: Vec<PayloadId> = (0..3).map(|_| store.add("/a").expect("added").id).collect();
        for id in ids {
            let claimed = store.claim().expect("answers").expect("one waits");
            assert_eq!((claimed.id, claimed.status), (id, Status::Running));
        }
        assert_eq!(store.claim().expect("answers"), None);
    }

    #[test]
    fn a_kill_and_an_end_cannot_overwrite_each_other() {
        let store = Store::open().expect("opens");
        let id = store.add("/a").expect("added").id;
        store.claim().expect("answers");
        assert_eq!(store.kill(id, "first").expect("answers"), Some(Killed::Running));
        assert_eq!(store.kill(id, "second").expect("answers"), Some(Killed::Running));
        assert_eq!(store.finish(id, &completed()).expect("answers"), Some(Status::Killed));
        assert_eq!(store.finish(id, &completed()).expect("answers"), None);
        assert_eq!(store.kill(id, "third").expect("answers"), Some(Killed::Ended));
        let payload = store.get(id).expect("answers").expect("known");
        assert_eq!(
            (payload.exit_code, payload.error.as_deref(), payload.killed),
            (Some(0), Some("first"), true)
        );

        let id = store.add("/b").expect("added").id;
        store.claim().expect("answers");
        assert_eq!(store.finish(id, &completed()).expect("answers"), Some(Status::Completed));
        assert_eq!(store.kill(id, "late").expect("answers"), Some(Killed::Ended));
        assert_eq!(status(&store, id), Status::Completed);
        assert_eq!(store.kill(id + 1, "unknown").expect("answers"), None);
    }

    #[test]
    fn a_killed_waiting_payload_is_never_claimed() {
        let store = Store::open().expect("opens");
        let id = store.add("/a").expect("added").id;
        assert_eq!(store.kill(id, "reason").expect("answers"), Some(Killed::Waiting));
        assert_eq!(store.claim().expect("answers"), None);
        assert_eq!(store.counts().expect("answers"), Counts::default());
    }

    #[test]
    fn a_result_is_untold_until_it_is_fetched() {
        let store = Store::open().expect("opens");
        let start = now_ms();
        let id = store.add("/a").expect("added").id;
        assert!(!store.has_untold(start).expect("answers"));
        store.kill(id, "reason").expect("answers");
        assert!(store.has_untold(start).expect("answers"));
        assert!(!store.has_untold(now_ms() + 1000).expect("answers"));
        store.set_told(id).expect("answers");
        assert!(!store.has_untold(start).expect("answers"));
    }

    #[test]
    fn only_what_has_ended_is_cleaned_and_forgotten() {
        let store = Store::open().expect("opens");
        let ids: Vec<PayloadId> =
            ["/ended", "/killed", "/waits"].map(|loc| store.add(loc).expect("added").id).into();
        store.claim().expect("answers");
        store.finish(ids[0], &completed()).expect("answers");
        store.claim().expect("answers");
        store.kill(ids[1], "still being ended").expect("answers");
        let future = now_ms() + 60_000;
        assert_eq!(store.clean(future).expect("answers"), [(ids[0], "/ended".to_owned())]);
        assert_eq!(store.clean(future).expect("answers"), []);
        assert_eq!(status(&store, ids[0]), Status::Cleaned);
        assert_eq!(store.counts().expect("answers"), Counts { waiting: 1, running: 1 });
        assert_eq!(store.forget(future).expect("answers"), 1);
        assert_eq!(store.get(ids[0]).expect("answers"), None);
        assert_eq!(status(&store, ids[2]), Status::Prepared);
    }
}
