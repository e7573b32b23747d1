//! Reading a log over its rotated files, and following it.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::chain::{self, Link};
use crate::{Decoded, Driver, LogError, MAX_ENCODED, Record, cri, json, local, tail};

/// How far to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extent {
    /// To what is there at the opening; what comes later is not given.
    #[default]
    Present,
    /// On, through rotations; [`Reader::poll_next`] then has nothing only for the moment.
    Follow,
}

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Not those before this time, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// Not those after this time.
    pub until: Option<i64>,
    /// Only the last so many, counted before `since` and `until` apply.
    pub tail: Option<usize>,
    /// Where to stop.
    pub extent: Extent,
}

/// Reads the records of a log, the oldest first.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    driver: Driver,
    since: i64,
    until: i64,
    extent: Extent,
    current: Option<Cursor>,
    /// Files after `current`, the oldest first.
    pending: VecDeque<Cursor>,
}

/// A place in an open file.
#[derive(Debug)]
struct Cursor {
    link: Link,
    /// Where the next read goes.
    offset: u64,
    /// Reads stop here.
    end: u64,
    buffer: Vec<u8>,
    /// Start of what is not decoded yet.
    start: usize,
}

const CHUNK: usize = 64 * 1024;

impl Reader {
    /// Opens the log at `path`. A log that does not exist is empty: with [`Extent::Follow`], its
    /// records are given once it does.
    ///
    /// # Errors
    /// A file that exists and cannot be opened or read.
    pub fn open(path: &Path, driver: Driver, options: &ReadOptions) -> Result<Self, LogError> {
        let failed = |source| LogError { action: "read", path: path.to_owned(), source };
        let mut pending = VecDeque::new();
        let mut wanted = options.tail;
        for (age, link) in chain::scan(path)?.into_iter().enumerate() {
            if wanted == Some(0) && age > 0 {
                break;
            }
            let size = link.file.metadata().map_err(failed)?.len();
            let offset = match &mut wanted {
                None => 0,
                Some(n) => {
                    let (offset, found) =
                        tail::find(&link.file, driver, size, *n).map_err(failed)?;
                    *n -= found;
                    offset
                }
            };
            // Only the newest file grows.
            let end = match options.extent {
                Extent::Follow if age == 0 => u64::MAX,
                _ => size,
            };
            pending.push_front(Cursor::new(link, offset, end));
        }
        Ok(Self {
            path: path.to_owned(),
            driver,
            since: options.since.unwrap_or(i64::MIN),
            until: options.until.unwrap_or(i64::MAX),
            extent: options.extent,
            current: pending.pop_front(),
            pending,
        })
    }

    /// The next record, or `None` when there is none (for now, if following).
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn poll_next(&mut self) -> Result<Option<Record>, LogError> {
        loop {
            if let Some(current) = &mut self.current {
                let next = current.next(self.driver).map_err(|source| LogError {
                    action: "read",
                    path: self.path.clone(),
                    source,
                })?;
                match next {
                    Some(record) if (self.since..=self.until).contains(&record.time_ns) => {
                        return Ok(Some(record));
                    }
                    Some(_) => continue,
                    None => {}
                }
            }
            if let Some(next) = self.pending.pop_front() {
                self.current = Some(next);
            } else if self.extent == Extent::Present || !self.find_successors()? {
                return Ok(None);
            }
        }
    }

    /// Looks for files newer than the current one; `false` when there are none.
    ///
    /// A file that has a successor is complete, but lines may have come between our last read of
    /// it and the rotation: it stays current, and the successors wait behind it.
    fn find_successors(&mut self) -> Result<bool, LogError> {
        let own = self.current.as_ref().map(|current| current.link.id);
        if own.is_some_and(|id| chain::is_current(&self.path, id)) {
            return Ok(false);
        }
        let mut links = chain::scan(&self.path)?;
        if let Some(position) = links.iter().position(|link| Some(link.id) == own) {
            links.truncate(position);
        }
        for link in links {
            self.pending.push_front(Cursor::new(link, 0, u64::MAX));
        }
        Ok(!self.pending.is_empty())
    }
}

impl Cursor {
    fn new(link: Link, offset: u64, end: u64) -> Self {
        Self { link, offset, end, buffer: Vec::new(), start: 0 }
    }

    fn next(&mut self, driver: Driver) -> io::Result<Option<Record>> {
        loop {
            let rest = &self.buffer[self.start..];
            let decoded = match driver {
                _ if rest.is_empty() => Decoded::Incomplete,
                Driver::JsonFile => json::decode(rest),
                Driver::Local => local::decode(rest),
                Driver::Cri => cri::decode(rest),
            };
            match decoded {
                Decoded::Record(record, used) => {
                    self.start += used;
                    return Ok(Some(record));
                }
                Decoded::Skip(used) => self.start += used,
                Decoded::Lost => {
                    self.start = self.buffer.len();
                    self.end = self.offset;
                }
                Decoded::Incomplete => {
                    if !self.fill()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Reads on behind what is not decoded yet; `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let left = usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let held = self.buffer.len();
        debug_assert!(held <= MAX_ENCODED + CHUNK, "decoders skip what is longer");
        self.buffer.resize(held + CHUNK.min(left), 0);
        let result = self.link.file.read_at(&mut self.buffer[held..], self.offset);
        let read = *result.as_ref().unwrap_or(&0);
        self.buffer.truncate(held + read);
        self.offset += read as u64;
        if held + read == 0 {
            // An idle follower holds no buffer.
            self.buffer = Vec::new();
        }
        result.map(|read| read > 0)
    }
}
