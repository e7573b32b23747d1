//! Reading small files that somebody else wrote.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A regular file that gives at most a fixed number of bytes. A longer file is an error, not a
/// short read: half a password file would name the wrong users.
#[derive(Debug)]
pub struct BoundedFile {
    file: File,
    path: PathBuf,
    limit: u64,
    left: u64,
}

impl BoundedFile {
    pub(crate) fn new(file: File, path: &Path, limit: u64) -> Self {
        Self { file, path: path.to_owned(), limit, left: limit }
    }

    /// Everything, as bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when the file grew over the limit since it was opened, and I/O errors.
    pub fn read_all(mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // One byte more than allowed tells "exactly full" from "too long".
        let read = (&mut self.file).take(self.limit + 1).read_to_end(&mut bytes);
        read.map_err(|source| Error::Io { operation: "read", path: self.path.clone(), source })?;
        if bytes.len() as u64 > self.limit {
            return Err(Error::TooLarge { path: self.path, limit: self.limit });
        }
        Ok(bytes)
    }

    /// Everything, as text.
    ///
    /// # Errors
    /// As [`BoundedFile::read_all`], and [`Error::NotText`].
    pub fn read_text(self) -> Result<String> {
        let path = self.path.clone();
        String::from_utf8(self.read_all()?).map_err(|_| Error::NotText { path })
    }
}

impl Read for BoundedFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut probe = [0u8; 1];
            return match self.file.read(&mut probe)? {
                0 => Ok(0),
                _ => Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    Error::TooLarge { path: self.path.clone(), limit: self.limit },
                )),
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let n = self.file.read(&mut buf[..most])?;
        self.left -= n as u64;
        Ok(n)
    }
}
