//! All files of the directories, read again when one of them changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

use crate::edits::Edits;
use crate::error::{FileError, ResolveError, Unusable};
use crate::file::{Format, SpecFile, parse};
use crate::name::DeviceName;

/// Where vendors put their files: what is installed, then what is made at run time.
pub const DEFAULT_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Files in all directories.
const MAX_FILES: usize = 512;
/// Entries of one directory that are looked at.
const MAX_ENTRIES: usize = 16_384;
/// Bytes of one file.
const MAX_FILE: u64 = 1 << 20;
/// Bytes of all files.
const MAX_TOTAL: u64 = 16 << 20;
/// Devices of one container.
const MAX_NAMES: usize = 256;

/// The files of some directories. A later directory wins over an earlier one.
#[derive(Debug)]
pub struct Registry {
    dirs: Vec<PathBuf>,
    last: Mutex<Arc<Scan>>,
}

/// What was found, and how it looked.
#[derive(Debug, Default)]
struct Scan {
    seen: Vec<(PathBuf, Stamp)>,
    files: Vec<SpecFile>,
    devices: BTreeMap<DeviceName, Found>,
    unusable: Vec<Unusable>,
}

/// What tells that a file is not what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// As `modified`; nobody can set it back.
    changed: (i64, i64),
    size: u64,
    /// Device and inode.
    file: (u64, u64),
}

/// Who has a device.
#[derive(Debug)]
struct Found {
    /// Index of the directory.
    priority: usize,
    /// Index in [`Scan::files`].
    file: usize,
    /// All of one directory; more than one is a conflict.
    paths: Vec<PathBuf>,
}

/// A file that may be a vendor's.
struct Candidate {
    path: PathBuf,
    format: Format,
    priority: usize,
}

impl Registry {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs, last: Mutex::default() }
    }

    /// The directories, in rising order of what wins.
    #[must_use]
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// What the devices change, all together: each file's common changes before those of its first
    /// device. Blocks on the file system.
    ///
    /// # Errors
    /// With the names that no file has, that more than one has, or that need what is not supported.
    pub fn resolve(&self, names: &[String]) -> Result<Edits, ResolveError> {
        let mut edits = Edits::default();
        if names.is_empty() {
            return Ok(edits);
        }
        if names.len() > MAX_NAMES {
            return Err(ResolveError::TooMany(MAX_NAMES));
        }
        let names: Vec<DeviceName> = names.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
        let scan = self.scan();
        let mut unknown = Vec::new();
        let mut seen = BTreeSet::new();
        let mut files = BTreeSet::new();
        for name in names {
            let Some(found) = scan.devices.get(&name) else {
                unknown.push(name.to_string());
                continue;
            };
            if found.paths.len() > 1 {
                let paths = found.paths.iter().map(|path| path.display().to_string()).collect();
                return Err(ResolveError::Conflict { device: name.to_string(), paths });
            }
            let Some(file) = scan.files.get(found.file) else { continue };
            let Some(device) = file.devices.get(&name) else { continue };
            if let Some(field) = file.common.unsupported.or(device.unsupported) {
                return Err(ResolveError::Unsupported { device: name.to_string(), field });
            }
            if files.insert(found.file) {
                edits.extend(&file.common.edits);
            }
            if seen.insert(name) {
                edits.extend(&device.edits);
            }
        }
        if unknown.is_empty() {
            return Ok(edits);
        }
        Err(ResolveError::Unknown { devices: unknown, unusable: scan.unusable.clone() })
    }

    /// The last result while nothing changed, else a new one. Two at once may both read.
    fn scan(&self) -> Arc<Scan> {
        let (candidates, unusable) = self.candidates();
        let seen: Vec<(PathBuf, Stamp)> = candidates
            .iter()
            .filter_map(|c| Some((c.path.clone(), stamp(&fs::metadata(&c.path).ok()?))))
            .collect();
        let last = Arc::clone(&self.last.lock().unwrap_or_else(PoisonError::into_inner));
        // What could not be listed or looked at is tried again, and told again.
        if unusable.is_empty() && seen.len() == candidates.len() && last.seen == seen {
            return last;
        }
        let scan = Arc::new(read_all(candidates, seen, unusable));
        for file in &scan.unusable {
            tracing::warn!("CDI file not used: {file}");
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&scan);
        scan
    }

    fn candidates(&self) -> (Vec<Candidate>, Vec<Unusable>) {
        let mut candidates = Vec::new();
        let mut unusable = Vec::new();
        for (priority, dir) in self.dirs.iter().enumerate() {
            let told = |reason| Unusable { path: dir.clone(), reason: Arc::new(reason) };
            let entries = match fs::read_dir(dir) {
                Ok(entries) => entries,
                // Most machines have no such devices.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    unusable.push(told(FileError::Read(error)));
                    continue;
                }
            };
            let mut found: Vec<Candidate> = entries
                .take(MAX_ENTRIES)
                .flatten()
                .filter_map(|entry| {
                    let path = entry.path();
                    let format = match path.extension().and_then(OsStr::to_str) {
                        Some("json") => Format::Json,
                        Some("yaml") => Format::Yaml,
                        _ => return None,
                    };
                    Some(Candidate { path, format, priority })
                })
                .collect();
            found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            if candidates.len() + found.len() > MAX_FILES {
                found.truncate(MAX_FILES - candidates.len());
                unusable.push(told(FileError::TooMany("512 files")));
            }
            candidates.append(&mut found);
        }
        (candidates, unusable)
    }
}

fn stamp(meta: &fs::Metadata) -> Stamp {
    Stamp {
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
        size: meta.size(),
        file: (meta.dev(), meta.ino()),
    }
}

fn read_all(
    candidates: Vec<Candidate>,
    seen: Vec<(PathBuf, Stamp)>,
    unusable: Vec<Unusable>,
) -> Scan {
    let mut scan = Scan { seen, unusable, ..Scan::default() };
    let mut left = MAX_TOTAL;
    for Candidate { path, format, priority } in candidates {
        let file = read(&path, &mut left).and_then(|content| parse(&content, format));
        match file {
            Ok(file) => scan.add(file, path, priority),
            Err(reason) => scan.unusable.push(Unusable { path, reason: Arc::new(reason) }),
        }
    }
    scan
}

impl Scan {
    fn add(&mut self, file: SpecFile, path: PathBuf, priority: usize) {
        let at = self.files.len();
        for name in file.devices.keys() {
            match self.devices.get_mut(name) {
                // Directories come in rising order.
                Some(found) if found.priority == priority => found.paths.push(path.clone()),
                _ => {
                    let found = Found { priority, file: at, paths: vec![path.clone()] };
                    self.devices.insert(name.clone(), found);
                }
            }
        }
        self.files.push(file);
    }
}

/// The content, without waiting for the other end of a pipe. `left` is what all files may yet be.
fn read(path: &Path, left: &mut u64) -> Result<Vec<u8>, FileError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| FileError::Read(errno.into()))?;
    let file = File::from(file);
    if !file.metadata().map_err(FileError::Read)?.is_file() {
        return Err(FileError::NotAFile);
    }
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(FileError::Read)?;
    let size = content.len() as u64;
    if size > MAX_FILE {
        return Err(FileError::TooLarge(MAX_FILE));
    }
    *left = left.checked_sub(size).ok_or(FileError::TooMany("16 MiB in all files"))?;
    Ok(content)
}
