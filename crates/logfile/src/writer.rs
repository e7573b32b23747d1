//! Writing and rotating.
//!
//! A full disk must neither block the container nor stop its log for ever: a batch that does not
//! fit is cut off again and counted, and the count is written as a record of its own as soon as
//! the disk takes bytes again.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::chain::name;
use crate::{Decoded, Driver, Encoder, LogError, MAX_ENCODED, RecordRef, Stream, local};

/// When a log moves on to a new file.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Bytes that a file may have; 0 for no limit. A single record may exceed it.
    pub max_size: u64,
    /// Files that are kept, the current one included; 0 is taken as 1.
    pub max_files: u32,
}

/// Appends records to a log file.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    encoder: Encoder,
    rotation: Rotation,
    /// Absent after a rotation whose second half failed.
    file: Option<File>,
    size: u64,
    batch: Vec<u8>,
    batch_records: u64,
    dropped: u64,
}

/// A batch is written when it has this size.
const BATCH: usize = 64 * 1024;

impl Writer {
    /// Opens or creates the log at `path` and repairs a record that a crash left torn at its end.
    ///
    /// # Errors
    /// The file cannot be opened, or is a symbolic link.
    pub fn open(path: &Path, encoder: Encoder, rotation: Rotation) -> Result<Self, LogError> {
        let failed = |source| LogError { action: "open", path: path.to_owned(), source };
        let file = append_to(path).map_err(failed)?;
        let size = repair(&file, encoder.driver()).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            encoder,
            rotation,
            file: Some(file),
            size,
            batch: Vec::new(),
            batch_records: 0,
            dropped: 0,
        })
    }

    /// Takes a record into the current batch; full batches are written.
    ///
    /// # Errors
    /// See [`Writer::flush`].
    pub fn append(&mut self, record: RecordRef<'_>) -> Result<(), LogError> {
        let before = self.batch.len();
        self.encoder.encode(record, &mut self.batch);
        if self.exceeds(self.batch.len()) {
            // This record belongs into the next file.
            let record = self.batch.split_off(before);
            let flushed = self.flush();
            let rotated = if self.size > 0 { self.rotate() } else { Ok(()) };
            self.batch.extend_from_slice(&record);
            self.batch_records = 1;
            return flushed.and(rotated);
        }
        self.batch_records += 1;
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Writes the batch in one call.
    ///
    /// # Errors
    /// The disk took nothing or not all of it: these records are lost and counted, and the file
    /// ends where it ended before. Later calls try again.
    pub fn flush(&mut self) -> Result<(), LogError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let notice = self.dropped;
        if notice > 0 {
            let line =
                format!("[pouch] {notice} log records were lost: the log could not be written");
            let mut text = Vec::new();
            let time_ns = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
            let record = RecordRef {
                stream: Stream::Stderr,
                time_ns,
                partial: false,
                line: line.as_bytes(),
            };
            self.encoder.encode(record, &mut text);
            self.batch.splice(..0, text);
        }
        let result = self.write_batch();
        match &result {
            Ok(()) => {
                self.size += self.batch.len() as u64;
                self.dropped = 0;
            }
            Err(_) => self.dropped += self.batch_records,
        }
        self.batch.clear();
        self.batch_records = 0;
        result
    }

    /// Goes on in a new file at the same path, after somebody else renamed the old one. What was
    /// appended before is in the old one, which is not written to any more.
    ///
    /// # Errors
    /// The new file cannot be opened: then the old one is kept. The batch could not be written to
    /// the old one: then its records are lost and counted, in the new file.
    pub fn reopen(&mut self) -> Result<(), LogError> {
        let failed = |source| LogError { action: "reopen", path: self.path.clone(), source };
        let file = append_to(&self.path).map_err(failed)?;
        let size = repair(&file, self.encoder.driver()).map_err(failed)?;
        let flushed = self.flush();
        self.file = Some(file);
        self.size = size;
        flushed
    }

    /// Gives back the memory of the batch. For idle times; the next record takes it again.
    pub fn shrink(&mut self) {
        if self.batch.is_empty() {
            self.batch = Vec::new();
        }
    }

    /// Counts records that were lost before they came here; the next write tells of them.
    pub fn note_dropped(&mut self, records: u64) {
        self.dropped += records;
    }

    /// Records lost since the last successful write.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn exceeds(&self, more: usize) -> bool {
        let size = self.size + more as u64;
        let alone = self.size == 0 && self.batch_records == 0;
        let limited = self.rotation.max_size > 0 && self.encoder.driver() != Driver::Cri;
        limited && size > self.rotation.max_size && !alone
    }

    fn write_batch(&mut self) -> Result<(), LogError> {
        let failed = |source| LogError { action: "write", path: self.path.clone(), source };
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(append_to(&self.path).map_err(failed)?),
        };
        file.write_all(&self.batch).map_err(|source| {
            // A half-written record would swallow the next one. Cutting needs no space.
            let _ = file.set_len(self.size);
            failed(source)
        })
    }

    /// Moves each file one number up and begins a new one.
    fn rotate(&mut self) -> Result<(), LogError> {
        let failed = |source| LogError { action: "rotate", path: self.path.clone(), source };
        let oldest = self.rotation.max_files.max(1) - 1;
        if oldest == 0 {
            remove(&self.path).map_err(failed)?;
        }
        for index in (0..oldest).rev() {
            match std::fs::rename(name(&self.path, index), name(&self.path, index + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        self.file = None;
        self.size = 0;
        self.file = Some(append_to(&self.path).map_err(failed)?);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Separates or cuts off a torn record at the end; returns the size.
fn repair(mut file: &File, driver: Driver) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if size == 0 {
        return Ok(0);
    }
    match driver {
        Driver::JsonFile | Driver::Cri => {
            let mut last = [0];
            file.read_exact_at(&mut last, size - 1)?;
            if last == *b"\n" {
                return Ok(size);
            }
            file.write_all(b"\n")?;
            Ok(size + 1)
        }
        Driver::Local => {
            let (_, found) = crate::tail::find(file, driver, size, 1)?;
            if found == 1 {
                return Ok(size);
            }
            let good = sound_length(file, size)?;
            file.set_len(good)?;
            Ok(good)
        }
    }
}

/// Bytes of whole frames from the start.
fn sound_length(file: &File, size: u64) -> io::Result<u64> {
    let mut position = 0;
    let mut frame = Vec::new();
    while position < size {
        let left = usize::try_from(size - position).unwrap_or(usize::MAX);
        frame.resize(left.min(crate::MAX_LINE * 2), 0);
        file.read_exact_at(&mut frame, position)?;
        match local::decode(&frame) {
            Decoded::Record(_, used) | Decoded::Skip(used) => position += used as u64,
            Decoded::Incomplete | Decoded::Lost => break,
        }
    }
    Ok(position)
}

// The bound that readers rely on, for lines; attributes are the daemon's and bounded there.
const _: () = assert!(crate::MAX_LINE * 6 + 512 < MAX_ENCODED);
