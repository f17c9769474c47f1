//! What a start makes of the directories of the life before: the truth is on the disk, and each payload gets exactly one
//! outcome. What had ended is as it was, what never started is queued again, what was cut off has `Failed`.

use std::path::{Path, PathBuf};

use crate::data::path::DataPath;
use crate::data::record::{self, RecordError};
use crate::event;
use crate::payload::{Outcome, Payload, PayloadId, Status};
use crate::store::{Store, StoreError};
use crate::upkeep::record_writer::Records;
use crate::upkeep::retention::Remover;

/// Why a payload that ran has no result.
const CUT_OFF: &str =
    "the client was restarted while the payload ran, so it was ended and not run again; submit it anew";

/// What was found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The highest id that is known.
    pub highest_id: Option<PayloadId>,
    /// Directories that no row knows; they go by age.
    pub leftovers: Vec<PathBuf>,
}

/// Reads all records into the empty store. Call before the first payload comes in, with DATA_PATH locked: nobody but
/// processes of the life before can be at work there, and `end_strays` ends these.
pub fn recover(
    store: &Store,
    data_path: &DataPath,
    records: &Records,
    remover: &Remover,
    end_strays: fn(&Path),
) -> Result<Recovered, Box<dyn std::error::Error>> {
    let mut found = Recovered::default();
    let mut counts = Counts::default();
    let mut cut_off = Vec::new();
    for directory in data_path.directories()? {
        match record::load(&directory) {
            Ok(payload) if store.get(payload.id)?.is_some() => {
                event!(
                    Error,
                    "two directories have one payload",
                    payload = payload.id,
                    directory = payload.loc
                );
                found.leftovers.push(directory);
            }
            Ok(payload) => {
                found.highest_id = found.highest_id.max(Some(payload.id));
                if payload.status != Status::Prepared && payload.finished_at.is_none() {
                    cut_off.push(payload);
                } else {
                    counts.count(&payload);
                    store.restore(&payload)?;
                }
            }
            Err(RecordError::Missing) => {
                counts.unfinished_uploads += 1;
                event!(Info, "half-received upload is removed", directory = directory.display());
                remover.remove(&directory);
            }
            Err(error) => {
                event!(
                    Error,
                    "payload cannot be taken up",
                    directory = directory.display(),
                    error = error.to_string()
                );
                found.leftovers.push(directory);
            }
        }
    }
    if !cut_off.is_empty() {
        end_strays(data_path.path());
    }
    for payload in cut_off {
        counts.count(&end(store, payload, records)?);
    }
    if counts != Counts::default() {
        counts.tell();
    }
    Ok(found)
}

/// A start that takes nothing up: what is there goes by age, and nothing of it runs on.
pub fn start_empty(data_path: &DataPath, end_strays: fn(&Path)) -> std::io::Result<Recovered> {
    let leftovers = data_path.directories()?;
    if !leftovers.is_empty() {
        end_strays(data_path.path());
    }
    Ok(Recovered { highest_id: None, leftovers })
}

/// Who was being killed is `Killed`, all others `Failed`.
fn end(store: &Store, payload: Payload, records: &Records) -> Result<Payload, StoreError> {
    let payload = payload.ended(&Outcome::not_started(Status::Failed, CUT_OFF));
    event!(
        Warn,
        "payload was cut off by the restart",
        payload = payload.id,
        status = payload.status.to_string()
    );
    store.restore(&payload)?;
    if let Err(error) = records.save(&payload) {
        event!(Error, "cannot write the record", payload = payload.id, error = error);
    }
    Ok(payload)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    waiting: u32,
    ended: u32,
    unfinished_uploads: u32,
}

impl Counts {
    fn count(&mut self, payload: &Payload) {
        match payload.status {
            Status::Prepared => self.waiting += 1,
            _ => self.ended += 1,
        }
    }

    fn tell(&self) {
        event!(
            Info,
            "payloads of the life before taken up",
            waiting = self.waiting,
            ended = self.ended,
            unfinished_uploads = self.unfinished_uploads,
        );
    }
}
