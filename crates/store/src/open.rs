//! Opening: pragmas, integrity, quarantine, migrations.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pouch_types::{Classified, ErrorKind};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::Schema;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite refused for another reason than damage.
    #[error("cannot open the database {path}")]
    Open {
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// The damaged database could not be moved aside.
    #[error("cannot move the damaged database {path} aside")]
    Quarantine {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A newer build wrote this database.
    #[error(
        "the database has version {found} of the tables of {owner}, this build knows {known}: \
         start the newer version, or restore an older copy"
    )]
    Newer {
        /// Owner of the tables.
        owner: String,
        /// Version in the database.
        found: u32,
        /// Newest version of this build.
        known: u32,
    },
    /// The writer's thread did not start.
    #[error("cannot start the thread of the store")]
    Thread(#[from] io::Error),
}

impl Classified for OpenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Newer { .. } => ErrorKind::Unsupported,
            Self::Open { source: rusqlite::Error::SqliteFailure(e, _), .. }
                if e.code == ErrorCode::DiskFull =>
            {
                ErrorKind::ResourceExhausted
            }
            _ => ErrorKind::Internal,
        }
    }
}

pub(crate) type Connections = (Connection, Connection, Option<PathBuf>);

pub(crate) fn open(path: &Path, schemas: &[Schema]) -> Result<Connections, OpenError> {
    let wrap = |source| OpenError::Open { path: path.to_owned(), source };
    let (mut writing, quarantined) = match connect_checked(path) {
        Ok(connection) => (connection, None),
        Err(error) if is_damage(&error) => {
            let moved = quarantine(path)
                .map_err(|source| OpenError::Quarantine { path: path.to_owned(), source })?;
            (from_copy(path).map_err(wrap)?, Some(moved))
        }
        Err(error) => return Err(wrap(error)),
    };
    migrate(&mut writing, path, schemas)?;
    let reading = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .and_then(|c| c.busy_timeout(Duration::from_secs(5)).map(|()| c))
    .map_err(wrap)?;
    Ok((writing, reading, quarantined))
}

/// Opens the last copy in place of what was lost; without a usable one, a fresh database.
fn from_copy(path: &Path) -> rusqlite::Result<Connection> {
    let copied = std::fs::copy(crate::backup::path(path), path).is_ok();
    match connect_checked(path) {
        Err(error) if copied && is_damage(&error) => {
            for suffix in ["", "-wal", "-shm"] {
                let mut name = path.as_os_str().to_owned();
                name.push(suffix);
                let _ = std::fs::remove_file(PathBuf::from(name));
            }
            connect_checked(path)
        }
        other => other,
    }
}

fn connect_checked(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Half a megabyte of pages is plenty for a database of some thousand rows.
    connection.pragma_update(None, "cache_size", -512)?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        Ok(connection)
    } else {
        Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
            Some(verdict),
        ))
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::SqliteFailure(e, _)
            if matches!(e.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Moves the database and its WAL aside. The WAL goes with it: replayed into a fresh file it would
/// damage that one too.
fn quarantine(path: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let target = beside(&format!(".corrupt-{seconds}"));
    std::fs::rename(path, &target)?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(beside(suffix), beside(&format!(".corrupt-{seconds}{suffix}"))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(target)
}

fn migrate(connection: &mut Connection, path: &Path, schemas: &[Schema]) -> Result<(), OpenError> {
    let wrap = |source| OpenError::Open { path: path.to_owned(), source };
    let tx = connection.transaction().map_err(wrap)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_version \
         (owner TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT",
    )
    .map_err(wrap)?;
    for schema in schemas {
        let found: u32 = tx
            .query_row(
                "SELECT coalesce(max(version), 0) FROM schema_version WHERE owner = ?1",
                [schema.owner],
                |row| row.get(0),
            )
            .map_err(wrap)?;
        let known = u32::try_from(schema.migrations.len()).unwrap_or(u32::MAX);
        if found > known {
            return Err(OpenError::Newer { owner: schema.owner.to_owned(), found, known });
        }
        for script in schema.migrations.iter().skip(found as usize) {
            tx.execute_batch(script).map_err(wrap)?;
        }
        tx.execute(
            "INSERT INTO schema_version VALUES (?1, ?2) \
             ON CONFLICT (owner) DO UPDATE SET version = excluded.version",
            (schema.owner, known),
        )
        .map_err(wrap)?;
    }
    tx.commit().map_err(wrap)
}
