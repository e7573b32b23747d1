//! A second copy of the database, for the day the first is damaged.
//!
//! A while after a commit a thread of its own writes the whole database (some hundred kilobytes)
//! into a new file and renames it over the last copy. It uses a reading connection, so writers
//! never wait for it. What changed in the last moments before the damage may be missing from it;
//! owners that keep records of their own beside their objects add that.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// Commits within this time share a copy.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// Tells the thread that something was committed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notice(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Changed,
    Closed,
}

impl Notice {
    pub(crate) fn changed(&self) {
        self.set(State::Changed);
    }

    pub(crate) fn close(&self) {
        self.set(State::Closed);
    }

    fn set(&self, to: State) {
        let (state, wake) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != State::Closed {
            *state = to;
            wake.notify_one();
        }
    }

    /// Waits for a change; `false` when the store is closed.
    fn wait(&self) -> bool {
        let (state, wake) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        while *state == State::Idle {
            state = wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut *state) == State::Changed
    }
}

/// Where the copy of `database` lies.
pub(crate) fn path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".backup");
    PathBuf::from(name)
}

pub(crate) fn spawn(database: &Path, notice: Notice) -> std::io::Result<()> {
    let database = database.to_owned();
    std::thread::Builder::new()
        .name("store-backup".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            while notice.wait() {
                std::thread::sleep(DEBOUNCE);
                if let Err(error) = write(&database) {
                    // A full disk, mostly: the last copy stands, the next change tries again.
                    tracing::warn!(%error, "the database could not be copied");
                    // Half a copy only takes space that is short.
                    let _ = std::fs::remove_file(unfinished(&database));
                }
            }
        })
        .map(drop)
}

/// Where the next copy is made.
fn unfinished(database: &Path) -> PathBuf {
    let mut name = path(database).into_os_string();
    name.push(".new");
    PathBuf::from(name)
}

fn write(database: &Path) -> rusqlite::Result<()> {
    let (copy, new) = (path(database), unfinished(database));
    // VACUUM INTO refuses a file that exists; one left by a crash is worth nothing.
    let _ = std::fs::remove_file(&new);
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.execute("VACUUM INTO ?1", [new.to_string_lossy()])?;
    let durable = std::fs::File::open(&new).and_then(|file| file.sync_all());
    durable
        .and_then(|()| std::fs::rename(&new, &copy))
        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}
