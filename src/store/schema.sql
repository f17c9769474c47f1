-- One row a payload. Times ending in _at are milliseconds since the Unix epoch, those ending in _clock are milliseconds of
-- the clock that only goes forward; sizes are bytes.
CREATE TABLE payload (
    id            INTEGER PRIMARY KEY,
    status        TEXT    NOT NULL,
    unnoted       TEXT, -- the status that follows once it is on the disk
    loc           BLOB    NOT NULL,
    pid           INTEGER,
    killed        INTEGER NOT NULL DEFAULT 0, -- for good
    exit_code     INTEGER,
    signal        INTEGER,
    error         TEXT,
    asked         TEXT,    -- the limits that its form asked for
    created_at    INTEGER NOT NULL,
    started_at    INTEGER,
    finished_at   INTEGER,
    left_over     TEXT,    -- how those ended that it left behind
    isolation     TEXT,    -- what was enforced for it, as JSON
    refused       INTEGER NOT NULL DEFAULT 0, -- whether the disk has not taken its end
    queued_clock  INTEGER NOT NULL DEFAULT 0, -- since when it waits in this life
    ended_clock   INTEGER, -- when its end was noted, for its age
    cleaned_clock INTEGER,
    told          INTEGER NOT NULL DEFAULT 0, -- whether anybody has fetched the result
    idempotency_key TEXT,  -- by which its sender may ask for it again
    zip_print     INTEGER, -- fingerprint of the archive whose length is known
    zip_bytes     INTEGER,
    unwanted      INTEGER NOT NULL DEFAULT 0, -- whether its removal has been asked for
    wall_s        REAL    NOT NULL DEFAULT 0,
    user_s        REAL    NOT NULL DEFAULT 0,
    system_s      REAL    NOT NULL DEFAULT 0,
    max_rss_bytes INTEGER NOT NULL DEFAULT 0
);

-- Each index holds only the rows that its query looks for, so claiming, counting and cleaning do not slow down with
-- the number of payloads kept.
CREATE INDEX payload_waiting  ON payload (id)          WHERE status = 'Prepared' AND unnoted IS NULL;
CREATE INDEX payload_running  ON payload (id)          WHERE started_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX payload_finished ON payload (ended_clock)   WHERE cleaned_clock IS NULL;
CREATE INDEX payload_cleaned  ON payload (cleaned_clock) WHERE cleaned_clock IS NOT NULL;
CREATE INDEX payload_unwanted ON payload (ended_clock)   WHERE unwanted = 1 AND cleaned_clock IS NULL;
CREATE INDEX payload_key      ON payload (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- For lists of one status, newest first: the id is the end of each entry of an index. What looks for those that wait names its
-- own index, since SQLite would take this one, in which those that are being killed stand too.
CREATE INDEX payload_status   ON payload (status);
