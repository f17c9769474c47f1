//! Retention: directories go MAX_AGE after the end of their payload, rows another MAX_AGE later.
//! What waits or runs has no end and is never looked at; directories of an earlier life go by their own age.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::data_path::DataPath;
use crate::event;
use crate::payload::{UnixMs, now_ms};
use crate::store::Store;

/// The longest wait between two looks; short ages are looked after more often.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// Starts the thread that cleans up. Call before the first payload comes in: what is on disk then is of an earlier life.
pub fn start(store: Store, data_path: &DataPath, max_age: Duration) -> io::Result<()> {
    let leftovers = data_path.directories()?;
    let pause = (max_age / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut cleaner = Cleaner { store, max_age, leftovers };
    thread::Builder::new().name("clean".to_owned()).spawn(move || {
        loop {
            cleaner.clean();
            thread::sleep(pause);
        }
    })?;
    Ok(())
}

struct Cleaner {
    store: Store,
    max_age: Duration,
    /// Directories that were there before this life.
    leftovers: Vec<PathBuf>,
}

impl Cleaner {
    fn clean(&mut self) {
        let max_age_ms = UnixMs::try_from(self.max_age.as_millis()).unwrap_or(UnixMs::MAX);
        let cutoff = now_ms() - max_age_ms;
        // The status changes first: whoever asks while the directory goes is told `Cleaned`, not half a ZIP.
        match self.store.clean(cutoff) {
            Ok(expired) => {
                for (id, loc) in expired {
                    event!(Info, "payload cleaned", payload = id, directory = loc);
                    remove(Path::new(&loc));
                }
            }
            Err(error) => event!(Error, "cannot look for old payloads", error = error.to_string()),
        }
        if let Err(error) = self.store.forget(cutoff) {
            event!(Error, "cannot forget old payloads", error = error.to_string());
        }
        let max_age = self.max_age;
        self.leftovers.retain(|directory| {
            let is_old = age(directory).is_none_or(|age| age > max_age);
            if is_old {
                event!(Info, "directory of an earlier life removed", directory = directory.display());
                remove(directory);
            }
            !is_old
        });
    }
}

/// Time since the last change in the directory itself; `None` if it is gone.
fn age(directory: &Path) -> Option<Duration> {
    let modified = fs::symlink_metadata(directory).and_then(|metadata| metadata.modified()).ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}

fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => event!(
            Error,
            "cannot remove a directory; remove it by hand",
            directory = directory.display(),
            error = error
        ),
    }
}
