//! The engine's only truth on disk: one SQLite database in WAL mode with `synchronous=FULL`.
//!
//! One thread owns the writing connection. What waits in its queue is committed together, each
//! request in a savepoint of its own: fifty containers started at once share a few fsyncs, and
//! one that fails undoes only itself. A reply is sent after the commit, so what was answered is
//! durable. Readers use a second connection and see the last commit.
//!
//! The store knows no table: each crate that keeps rows exports a [`Schema`], a list of migrations
//! that is only ever appended to.
//!
//! Blocks of the write-ahead log are allocated ahead, and a reserve file beside the database is
//! given up when the disk is nearly full, so that stopping and removing still work then.
//!
//! A damaged database is moved aside (`<path>.corrupt-<seconds>`) and the last copy of it, made
//! about a second after each change, opened instead; the engine adds what it can from the records
//! beside the containers. A newer schema than
//! this build knows is refused, never altered.

#![forbid(unsafe_code)]

mod backup;
mod open;
mod reserve;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use pouch_types::{Classified, ErrorKind};
use rusqlite::{Connection, Transaction};
use tokio::sync::{mpsc, oneshot};

pub use open::OpenError;

/// The tables of one crate: `migrations[n]` takes the schema from version n to n + 1.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Names the owner; unique among all schemas.
    pub owner: &'static str,
    /// SQL scripts, applied once each and in order. Append only.
    pub migrations: &'static [&'static str],
}

/// A failure of the store itself.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("database")]
    Sqlite(#[from] rusqlite::Error),
    /// There is no space for the write-ahead log.
    #[error("no space left on the file system of the database {path}")]
    Full {
        /// The database.
        path: PathBuf,
        /// SQLite's word for it.
        #[source]
        source: rusqlite::Error,
    },
    /// A value in a column is not what was written.
    #[error("row of {table} does not parse")]
    Row {
        /// Which table.
        table: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether a UNIQUE or PRIMARY KEY constraint was violated.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        matches!(
            self,
            Self::Sqlite(rusqlite::Error::SqliteFailure(e, _))
                if matches!(
                    e.extended_code,
                    rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE
                        | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                )
        )
    }

    /// Whether a FOREIGN KEY constraint was violated.
    #[must_use]
    pub fn is_foreign_key_violation(&self) -> bool {
        matches!(
            self,
            Self::Sqlite(rusqlite::Error::SqliteFailure(e, _))
                if e.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY
        )
    }
}

impl Classified for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(e, _))
                if e.code == rusqlite::ErrorCode::DiskFull =>
            {
                ErrorKind::ResourceExhausted
            }
            Self::Full { .. } => ErrorKind::ResourceExhausted,
            Self::Sqlite(_) | Self::Row { .. } => ErrorKind::Internal,
            Self::Closed => ErrorKind::Unavailable,
        }
    }
}

/// A handle on the store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    writer: mpsc::Sender<writer::Request>,
    reader: Arc<std::sync::Mutex<Connection>>,
}

/// A submitted write.
#[derive(Debug)]
pub struct Commit<T, E>(oneshot::Receiver<Result<T, E>>);

impl<T, E: From<StoreError>> Commit<T, E> {
    /// Waits until the write is durable, or failed.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn wait(self) -> Result<T, E> {
        self.0.await.map_err(|_| StoreError::Closed)?
    }
}

/// An opened store.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Where a damaged database was moved; the caller rebuilds.
    pub quarantined: Option<PathBuf>,
}

impl Store {
    /// Opens or creates the database at `path` and brings every schema to its newest version.
    ///
    /// # Errors
    /// [`OpenError`]: no access, no space, or a schema of a newer build.
    pub fn open(path: &std::path::Path, schemas: &[Schema]) -> Result<Opened, OpenError> {
        let mut reserve = reserve::Reserve::beside(path);
        reserve.make_room();
        let (writing, reading, quarantined) = open::open(path, schemas)?;
        // What was just released is the log's before anybody else takes it.
        reserve.extend_log();
        let (sender, receiver) = mpsc::channel(writer::QUEUE);
        let notice = backup::Notice::default();
        backup::spawn(path, notice.clone())?;
        writer::spawn(writing, receiver, reserve, notice)?;
        let store = Self { writer: sender, reader: Arc::new(std::sync::Mutex::new(reading)) };
        Ok(Opened { store, quarantined })
    }

    /// Runs `f` in a transaction and returns after it is durable.
    ///
    /// `f` runs on the writer's thread: it must not wait for anything. Its error rolls back what
    /// it did and nothing else.
    ///
    /// # Errors
    /// What `f` returns, or the store's own failure.
    pub async fn write<T, E, F>(&self, f: F) -> Result<T, E>
    where
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.submit(f).await?.wait().await
    }

    /// Puts `f` into the queue and returns the wait for its commit: what one caller submits is
    /// committed in that order, whether or not it waits in between.
    ///
    /// # Errors
    /// When the store is closed.
    pub async fn submit<T, E, F>(&self, f: F) -> Result<Commit<T, E>, StoreError>
    where
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let request = writer::Request::new(f, reply);
        self.writer.send(request).await.map_err(|_| StoreError::Closed)?;
        Ok(Commit(answer))
    }

    /// As [`Store::write`], from a thread that is not async's.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_blocking<T, E, F>(&self, f: F) -> Result<T, E>
    where
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let request = writer::Request::new(f, reply);
        self.writer.blocking_send(request).map_err(|_| StoreError::Closed)?;
        answer.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    /// Runs `f` on the reading connection, on a blocking thread.
    ///
    /// # Errors
    /// What `f` returns, or the store's own failure.
    pub async fn read<T, E, F>(&self, f: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.read_blocking(f))
            .await
            .map_err(|_| StoreError::Closed)?
    }

    /// As [`Store::read`], on the calling thread.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn read_blocking<T, E>(&self, f: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        // A poisoned lock means another reader panicked; the connection itself is unharmed.
        let reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        f(&reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: Schema = Schema {
        owner: "test",
        migrations: &["CREATE TABLE t (k TEXT PRIMARY KEY, v INTEGER) STRICT"],
    };

    fn open(dir: &std::path::Path) -> Opened {
        Store::open(&dir.join("db"), &[SCHEMA]).unwrap()
    }

    async fn put(store: &Store, k: &'static str, v: i64) -> Result<(), StoreError> {
        store
            .write(move |tx| {
                tx.execute("INSERT INTO t VALUES (?1, ?2)", (k, v))?;
                Ok::<_, StoreError>(())
            })
            .await
    }

    async fn count(store: &Store) -> i64 {
        store
            .read(|c| Ok::<_, StoreError>(c.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_failed_write_undoes_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).store;
        let (a, b, c) = tokio::join!(put(&store, "a", 1), put(&store, "a", 2), put(&store, "b", 3));
        let failures: Vec<_> = [a, b, c].into_iter().filter_map(Result::err).collect();
        assert_eq!(failures.len(), 1);
        assert!(failures[0].is_unique_violation());
        assert_eq!(count(&store).await, 2);
    }

    #[tokio::test]
    async fn survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        put(&open(dir.path()).store, "a", 1).await.unwrap();
        let opened = open(dir.path());
        assert!(opened.quarantined.is_none());
        assert_eq!(count(&opened.store).await, 1);
    }

    #[tokio::test]
    async fn many_writers_share_commits() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).store;
        let writes = (0..200i64).map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .write(move |tx| {
                        tx.execute("INSERT INTO t VALUES (?1, ?2)", (i.to_string(), i))?;
                        Ok::<_, StoreError>(())
                    })
                    .await
            })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap().unwrap();
        }
        assert_eq!(count(&store).await, 200);
    }

    #[test]
    fn a_damaged_database_is_quarantined() {
        for damage in
            [&b"garbage that is no database at all, longer than a header"[..], b"SQLite format 3\0"]
        {
            let dir = tempfile::tempdir().unwrap();
            drop(open(dir.path()));
            // The writer's thread closes the database a moment later, which removes the WAL.
            while dir.path().join("db-wal").exists() {
                std::thread::yield_now();
            }
            std::fs::write(dir.path().join("db"), damage).unwrap();
            let opened = open(dir.path());
            let moved = opened.quarantined.expect("quarantined");
            assert_eq!(std::fs::read(moved).unwrap(), damage);
            let rows: i64 = opened
                .store
                .read_blocking(|c| c.query_row("SELECT count(*) FROM t", [], |r| r.get(0)))
                .unwrap();
            assert_eq!(rows, 0);
        }
    }

    #[tokio::test]
    async fn the_copy_takes_the_place_of_a_damaged_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let store = open(dir.path()).store;
        put(&store, "kept", 1).await.unwrap();
        let begun = std::time::Instant::now();
        while !backup::path(&path).exists() {
            assert!(begun.elapsed().as_secs() < 20, "no copy was made");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        drop(store);
        while dir.path().join("db-wal").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        std::fs::write(&path, b"not a database, whatever it says").unwrap();
        let opened = open(dir.path());
        assert!(opened.quarantined.is_some());
        assert_eq!(count(&opened.store).await, 1);
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        const NEWER: Schema =
            Schema { owner: "test", migrations: &["CREATE TABLE t (k)", "CREATE TABLE u (k)"] };
        drop(Store::open(&dir.path().join("db"), &[NEWER]).unwrap());
        assert!(matches!(
            Store::open(&dir.path().join("db"), &[SCHEMA]),
            Err(OpenError::Newer { .. })
        ));
    }
}
