//! Where a container's output is recorded.
//!
//! *Blocking* logs write on the io thread: a slow disk slows the container down, and nothing is
//! lost. *Non-blocking* ones get a thread of their own behind a bounded queue; what does not fit
//! is dropped and counted in the log.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use pouch_logfile::{LogError, RecordRef, Stream, Writer};

/// A log, written on this thread or another.
#[derive(Debug)]
pub(crate) enum Log {
    Direct { writer: Writer, failing: bool },
    Queued(QueuedLog),
}

impl Log {
    pub(crate) fn direct(writer: Writer) -> Self {
        Self::Direct { writer, failing: false }
    }

    pub(crate) fn queued(writer: Writer, capacity: usize) -> std::io::Result<Self> {
        QueuedLog::new(writer, capacity).map(Self::Queued)
    }

    pub(crate) fn append(&mut self, record: RecordRef<'_>) {
        match self {
            Self::Direct { writer, failing } => note(writer.append(record), failing),
            Self::Queued(queue) => queue.append(record),
        }
    }

    /// What was appended becomes readable.
    pub(crate) fn flush(&mut self) {
        match self {
            Self::Direct { writer, failing } => note(writer.flush(), failing),
            Self::Queued(queue) => queue.shared.changed.notify_all(),
        }
    }

    /// Goes on in a new file, behind what was appended before; the answer goes to `client`.
    pub(crate) fn reopen(&mut self, client: OwnedFd) {
        match self {
            Self::Direct { writer, .. } => answer(&client, writer.reopen()),
            Self::Queued(queue) => queue.reopen(client),
        }
    }

    /// Gives back buffers.
    pub(crate) fn shrink(&mut self) {
        if let Self::Direct { writer, .. } = self {
            writer.shrink();
        }
    }
}

/// The log counts what it loses; the shim's own log tells the reason, once per failure.
fn note(result: Result<(), LogError>, failing: &mut bool) {
    match result {
        Ok(()) => *failing = false,
        Err(error) if !*failing => {
            *failing = true;
            tracing::warn!(error = %pouch_types::error::chain(&error), "log records are being lost");
        }
        Err(_) => {}
    }
}

fn answer(client: &OwnedFd, result: Result<(), LogError>) {
    match result {
        Ok(()) => super::event_loop::accept_order(client),
        Err(error) => {
            super::event_loop::refuse(client, &pouch_types::error::chain(&error));
        }
    }
}

/// A record that waits for the disk.
#[derive(Debug)]
struct Waiting {
    stream: Stream,
    time_ns: i64,
    partial: bool,
    line: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Backlog {
    records: VecDeque<Waiting>,
    bytes: usize,
    dropped: u64,
    /// Clients that wait for a new file, [`MAX_REOPENING`] at most.
    reopening: Vec<OwnedFd>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    backlog: Mutex<Backlog>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log behind a bounded queue.
#[derive(Debug)]
pub(crate) struct QueuedLog {
    shared: Arc<Shared>,
    capacity: usize,
}

/// Clients that may wait for a new file.
const MAX_REOPENING: usize = 16;
/// Memory that a waiting record takes beside its line.
const OVERHEAD: usize = 64;

impl QueuedLog {
    fn new(mut writer: Writer, capacity: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("log".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || run(&own, &mut writer))?;
        Ok(Self { shared, capacity })
    }

    fn append(&mut self, record: RecordRef<'_>) {
        let mut backlog = self.shared.lock();
        let size = record.line.len() + OVERHEAD;
        if backlog.bytes + size > self.capacity {
            backlog.dropped += 1;
            return;
        }
        backlog.bytes += size;
        backlog.records.push_back(Waiting {
            stream: record.stream,
            time_ns: record.time_ns,
            partial: record.partial,
            line: record.line.into(),
        });
    }

    fn reopen(&mut self, client: OwnedFd) {
        let mut backlog = self.shared.lock();
        if backlog.reopening.len() < MAX_REOPENING {
            backlog.reopening.push(client);
        } else {
            super::event_loop::refuse(&client, "the log is being reopened");
        }
        drop(backlog);
        self.shared.changed.notify_all();
    }
}

impl Drop for QueuedLog {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

/// The log thread: takes all that waits, writes it, until the queue is closed and empty.
fn run(shared: &Shared, writer: &mut Writer) {
    let mut failing = false;
    loop {
        let mut backlog = shared.lock();
        while backlog.records.is_empty() && backlog.reopening.is_empty() && !backlog.closed {
            backlog = shared.changed.wait(backlog).unwrap_or_else(PoisonError::into_inner);
        }
        if backlog.records.is_empty() && backlog.reopening.is_empty() {
            return;
        }
        let records = std::mem::take(&mut backlog.records);
        backlog.bytes = 0;
        let reopening = std::mem::take(&mut backlog.reopening);
        writer.note_dropped(std::mem::take(&mut backlog.dropped));
        drop(backlog);
        for record in records {
            let record = RecordRef {
                stream: record.stream,
                time_ns: record.time_ns,
                partial: record.partial,
                line: &record.line,
            };
            note(writer.append(record), &mut failing);
        }
        note(writer.flush(), &mut failing);
        for client in reopening {
            answer(&client, writer.reopen());
        }
    }
}
