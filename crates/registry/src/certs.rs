//! Certificates for single hosts: `/etc/docker/certs.d/<host[:port]>` as Docker reads it.
//!
//! `*.crt` are further CAs beside the system's, `*.cert` with the `*.key` of the same name is who
//! we are. They hold for the host whose directory it is: a redirect to another host takes neither
//! along.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::error::{CertsError, RegistryError};

/// The largest file of certificates or keys.
const FILE_BYTES: u64 = 1 << 20;
/// Files that are looked at in one directory.
const FILES: usize = 256;

/// Bytes that never show.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Secret(pub(crate) Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What TLS with one host needs beside the system's CAs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    /// PEM of further CAs, file by file.
    pub(crate) cas: Vec<Vec<u8>>,
    /// PEM of our certificate and of its key.
    pub(crate) client: Option<Secret>,
}

impl Identity {
    pub(crate) fn is_empty(&self) -> bool {
        self.cas.is_empty() && self.client.is_none()
    }

    /// Adds a file of CAs.
    pub(crate) fn add_ca(&mut self, path: &Path) -> Result<(), RegistryError> {
        let pem = read(path)?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem);
        if certificates.is_ok_and(|list| !list.is_empty()) {
            self.cas.push(pem);
            return Ok(());
        }
        Err(RegistryError::Certs { path: path.to_owned(), why: CertsError::NoCertificate })
    }

    /// Takes a certificate and its key. The last pair is the one that is shown.
    pub(crate) fn set_client(
        &mut self,
        cert: &Path,
        key: Option<&Path>,
    ) -> Result<(), RegistryError> {
        let mut pem = read(cert)?;
        if let Some(key) = key {
            pem.push(b'\n');
            pem.extend(read(key)?);
        }
        reqwest::Identity::from_pem(&pem).map_err(|_| RegistryError::Certs {
            path: cert.to_owned(),
            why: CertsError::NoIdentity,
        })?;
        self.client = Some(Secret(pem));
        Ok(())
    }

    /// Reads one directory; a missing one is an empty one.
    pub(crate) fn of_dir(dir: &Path) -> Result<Self, RegistryError> {
        let mut identity = Self::default();
        for path in entries(dir)? {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => identity.add_ca(&path)?,
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.is_file() {
                        let why = CertsError::NoKey(key);
                        return Err(RegistryError::Certs { path, why });
                    }
                    identity.set_client(&path, Some(&key))?;
                }
                Some("key") if !path.with_extension("cert").is_file() => {
                    let why = CertsError::NoCert(path.with_extension("cert"));
                    return Err(RegistryError::Certs { path, why });
                }
                _ => {}
            }
        }
        Ok(identity)
    }

    /// What the first directory with one of these names says.
    pub(crate) fn find(dirs: &[PathBuf], names: &[String]) -> Result<Self, RegistryError> {
        for dir in dirs {
            for name in names.iter().filter(|name| is_plain(name)) {
                let identity = Self::of_dir(&dir.join(name))?;
                if !identity.is_empty() {
                    return Ok(identity);
                }
            }
        }
        Ok(Self::default())
    }
}

/// Whether a host is one component of a path.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

/// Checks all hosts of a directory.
pub(crate) fn check_dir(dir: &Path) -> Result<(), RegistryError> {
    entries(dir)?.iter().filter(|p| p.is_dir()).try_for_each(|p| Identity::of_dir(p).map(drop))
}

/// The entries of a directory, sorted; none when it is missing.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let fail =
        |source| RegistryError::Certs { path: dir.to_owned(), why: CertsError::Read(source) };
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(fail(source)),
    };
    let mut paths = Vec::new();
    for entry in list.take(FILES) {
        paths.push(entry.map_err(fail)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let fail =
        |source| RegistryError::Certs { path: path.to_owned(), why: CertsError::Read(source) };
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(FILE_BYTES).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_wrong_ones_named() {
        let dir = tempfile::tempdir().unwrap();
        let certs = [dir.path().to_owned()];
        let names = ["reg.lan:5000".to_owned()];
        assert!(Identity::find(&certs, &names).unwrap().is_empty());
        let host = dir.path().join(&names[0]);
        fs::create_dir(&host).unwrap();
        let made = rcgen::generate_simple_self_signed(["reg.lan".to_owned()]).unwrap();
        fs::write(host.join("ca.crt"), made.cert.pem()).unwrap();
        fs::write(host.join("client.cert"), made.cert.pem()).unwrap();
        let error = Identity::find(&certs, &names).unwrap_err();
        let error = pouch_types::error::chain(&error);
        assert!(error.contains("client.cert") && error.contains("client.key"), "{error}");
        fs::write(host.join("client.key"), made.signing_key.serialize_pem()).unwrap();
        let identity = Identity::find(&certs, &names).unwrap();
        assert_eq!(identity.cas.len(), 1);
        assert!(identity.client.is_some() && !format!("{identity:?}").contains("PRIVATE"));
        check_dir(dir.path()).unwrap();
        fs::write(host.join("other.crt"), "nothing").unwrap();
        let error = check_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains("other.crt"), "{error}");
        assert!(Identity::find(&certs, &["../x".to_owned()]).unwrap().is_empty());
    }
}
