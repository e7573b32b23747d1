//! The writing thread: takes what waits in the queue and commits it together.

use std::io;
use std::panic::AssertUnwindSafe;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::StoreError;
use crate::backup::Notice;
use crate::reserve::Reserve;

/// Requests that may wait; a sender beyond them waits in turn.
pub(crate) const QUEUE: usize = 256;
/// Requests that share one commit at most, so that the first of them does not wait for long.
const BATCH: usize = 64;

type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Work = Box<dyn FnOnce(&Transaction<'_>) -> Outcome + Send>;

/// What one request did inside its savepoint.
struct Outcome {
    keep: bool,
    /// Sends the answer; told whether the commit succeeded.
    reply: Reply,
}

pub(crate) struct Request(Work);

impl Request {
    pub(crate) fn new<T, E, F>(f: F, reply: oneshot::Sender<Result<T, E>>) -> Self
    where
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        Self(Box::new(move |tx| {
            let result = f(tx);
            let keep = result.is_ok();
            let reply: Reply = Box::new(move |committed| {
                let answer = match (result, committed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Ok(_), Err(error)) => Err(error.into()),
                    (Err(error), _) => Err(error),
                };
                // The caller may have gone; the commit stands all the same.
                let _ = reply.send(answer);
            });
            Outcome { keep, reply }
        }))
    }
}

pub(crate) fn spawn(
    mut connection: Connection,
    queue: mpsc::Receiver<Request>,
    reserve: Reserve,
    notice: Notice,
) -> io::Result<()> {
    std::thread::Builder::new()
        .name("store".into())
        .stack_size(512 * 1024)
        .spawn(move || run(&mut connection, queue, reserve, &notice))
        .map(drop)
}

fn run(
    connection: &mut Connection,
    mut queue: mpsc::Receiver<Request>,
    mut reserve: Reserve,
    notice: &Notice,
) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match queue.try_recv() {
                Ok(request) => batch.push(request),
                Err(_) => break,
            }
        }
        reserve.adjust();
        commit(connection, batch);
        notice.changed();
    }
    notice.close();
}

fn commit(connection: &mut Connection, batch: Vec<Request>) {
    let mut replies = Vec::with_capacity(batch.len());
    let committed = (|| {
        // IMMEDIATE: take the write lock first, so that no statement fails half-way with BUSY.
        let mut tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for request in batch {
            replies.extend(in_savepoint(&mut tx, request)?);
        }
        tx.commit()
    })();
    match committed {
        Ok(()) => replies.into_iter().for_each(|reply| reply(Ok(()))),
        // Each waiter gets the failure itself: a full disk must be called that.
        Err(error) => {
            tracing::error!(error = %error, "the store could not commit");
            let path = connection.path().map(std::path::PathBuf::from);
            let failure = |error: &rusqlite::Error| match (error.sqlite_error_code(), &path) {
                (Some(ErrorCode::DiskFull), Some(path)) => {
                    StoreError::Full { path: path.clone(), source: copy(error) }
                }
                _ => StoreError::Sqlite(copy(error)),
            };
            replies.into_iter().for_each(|reply| reply(Err(failure(&error))));
        }
    }
}

/// Runs one request in a savepoint. A request that panics is rolled back and its caller finds the
/// answer missing; the writer goes on.
fn in_savepoint(tx: &mut Transaction<'_>, request: Request) -> rusqlite::Result<Option<Reply>> {
    tx.execute_batch("SAVEPOINT request")?;
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| (request.0)(tx)));
    let keep = outcome.as_ref().is_ok_and(|o| o.keep);
    if !keep {
        tx.execute_batch("ROLLBACK TO request")?;
    }
    tx.execute_batch("RELEASE request")?;
    Ok(outcome.ok().map(|o| o.reply))
}

/// `rusqlite::Error` is not `Clone`; what matters of it is the code and the text.
fn copy(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(e, text) => rusqlite::Error::SqliteFailure(*e, text.clone()),
        other => rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
            Some(other.to_string()),
        ),
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}
