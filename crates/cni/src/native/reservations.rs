//! host-local's reservations: `<dataDir>/<network>/<address>` with the owner's id and interface,
//! `last_reserved_ip.<set>`, and `lock`, taken with flock(2). The format is the plugin's, so that
//! both may work on one directory in turn and at once.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::ranges::{Range, RangeSet};
use crate::error::CniError;

/// Between id and interface, on every system.
const LINE_BREAK: &str = "\r\n";
const LAST: &str = "last_reserved_ip.";
const LOCK: &str = "lock";
const PAUSE: Duration = Duration::from_millis(1);
/// An owner is at most an id and an interface.
const MAX_OWNER: u64 = 4096;

/// The locked directory of one network.
#[derive(Debug)]
pub(crate) struct Reservations {
    network: String,
    directory: PathBuf,
    /// Unlocked when it is closed.
    _lock: File,
}

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    pub(crate) id: &'a str,
    pub(crate) ifname: &'a str,
}

impl Owner<'_> {
    fn text(self) -> String {
        format!("{}{LINE_BREAK}{}", self.id, self.ifname)
    }
}

impl Reservations {
    /// Makes and locks the directory; waits at most `patience` for another program.
    pub(crate) fn lock(
        network: &str,
        directory: &Path,
        patience: Duration,
    ) -> Result<Self, CniError> {
        let path = directory.join(LOCK);
        let open = || {
            // Written by nobody; the plugin opens it likewise.
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)
        };
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut builder = fs::DirBuilder::new();
                builder.recursive(true).mode(0o755);
                builder.create(directory).map_err(CniError::file("make", directory))?;
                open()
            }
            other => other,
        };
        let file = file.map_err(CniError::file("open", &path))?;
        let end = Instant::now() + patience;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => {
                    std::thread::sleep(PAUSE);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let network = network.to_owned();
                    return Err(CniError::Locked { network, path, after: patience });
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(CniError::file("lock", &path)(error)),
            }
        }
        Ok(Self { network: network.to_owned(), directory: directory.to_owned(), _lock: file })
    }

    /// Reserves one address of the set: `wanted`, or the next free one. None that is `in_use`
    /// although its reservation was lost: somebody may have emptied the directory.
    pub(crate) fn reserve<'a>(
        &self,
        owner: Owner<'_>,
        number: usize,
        set: &'a RangeSet,
        wanted: Option<IpAddr>,
        in_use: &dyn Fn(IpAddr) -> bool,
    ) -> Result<(IpAddr, &'a Range), CniError> {
        if let Some(address) = wanted {
            let refused = |reason| CniError::Address {
                network: self.network.clone(),
                address: address.to_string(),
                reason,
            };
            let range = set.range_of(address).ok_or_else(|| refused("is in no range"))?;
            if address == range.gateway {
                return Err(refused("is the gateway's"));
            }
            if in_use(address) {
                return Err(refused("is in use"));
            }
            return match self.take(owner, number, address)? {
                Taken::Ours => Ok((address, range)),
                Taken::Before => Err(refused("is reserved")),
            };
        }
        let reserved = self.reserved()?;
        for (address, range) in set.from(self.last(number)) {
            if !reserved.contains(&address)
                && !in_use(address)
                && self.take(owner, number, address)? == Taken::Ours
            {
                return Ok((address, range));
            }
        }
        Err(CniError::NoAddress { network: self.network.clone(), ranges: set.to_string() })
    }

    fn take(&self, owner: Owner<'_>, number: usize, address: IpAddr) -> Result<Taken, CniError> {
        let path = self.directory.join(address.to_string());
        let failed = || CniError::file("write", &path);
        let mut options = OpenOptions::new();
        let mut file = match options.write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(Taken::Before);
            }
            other => other.map_err(failed())?,
        };
        let last = self.directory.join(format!("{LAST}{number}"));
        let written = file.write_all(owner.text().as_bytes()).map_err(failed()).and_then(|()| {
            let mut options = OpenOptions::new();
            let open = options.write(true).create(true).truncate(true).mode(0o600).open(&last);
            open.and_then(|mut file| file.write_all(address.to_string().as_bytes()))
                .map_err(CniError::file("write", &last))
        });
        written.map(|()| Taken::Ours).inspect_err(|_| {
            // The write's failure is the one to tell.
            let _ = fs::remove_file(&path);
        })
    }

    fn last(&self, number: usize) -> Option<IpAddr> {
        read(&self.directory.join(format!("{LAST}{number}")))?.parse().ok()
    }

    fn entries(&self) -> Result<Vec<(IpAddr, PathBuf)>, CniError> {
        let failed = || CniError::file("list", &self.directory);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            if let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                found.push((address, entry.path()));
            }
        }
        Ok(found)
    }

    fn reserved(&self) -> Result<HashSet<IpAddr>, CniError> {
        Ok(self.entries()?.into_iter().map(|(address, _)| address).collect())
    }

    /// Whether the owner has the address.
    pub(crate) fn holds(&self, owner: Owner<'_>, address: IpAddr) -> bool {
        let found = read(&self.directory.join(address.to_string()));
        found.is_some_and(|text| text == owner.text() || text == owner.id)
    }

    /// Gives `addresses` back, as far as they are the owner's.
    pub(crate) fn release(&self, owner: Owner<'_>, addresses: &[IpAddr]) -> Result<(), CniError> {
        for address in addresses.iter().filter(|address| self.holds(owner, **address)) {
            crate::cache::remove(&self.directory.join(address.to_string()))?;
        }
        Ok(())
    }

    /// Gives back whatever is the owner's, for when nobody knows what that is.
    pub(crate) fn release_all(&self, owner: Owner<'_>) -> Result<(), CniError> {
        let all: Vec<_> = self.reserved()?.into_iter().collect();
        self.release(owner, &all)
    }

    /// Gives back what belongs to none of `valid`, ids and interfaces.
    pub(crate) fn retain(&self, valid: &HashSet<(String, String)>) -> Result<usize, CniError> {
        let mut released = 0;
        for (_, path) in self.entries()? {
            let Some(text) = read(&path) else { continue };
            let (id, ifname) = text.split_once(LINE_BREAK).unwrap_or((&text, ""));
            let lives = valid.iter().any(|(i, f)| i == id && (f == ifname || ifname.is_empty()));
            if !lives {
                crate::cache::remove(&path)?;
                released += 1;
            }
        }
        Ok(released)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Ours,
    Before,
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_OWNER).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use pouch_types::{Classified, ErrorKind};
    use serde_json::json;

    use super::super::ranges::Ipam;
    use super::*;

    fn set() -> RangeSet {
        let file = json!({"type": "host-local", "subnet": "10.0.0.0/29"});
        Ipam::of(serde_json::from_value(file).unwrap()).unwrap().sets.remove(0)
    }

    fn owner(id: &str) -> Owner<'_> {
        Owner { id, ifname: "eth0" }
    }

    fn lock(dir: &Path) -> Reservations {
        Reservations::lock("n", &dir.join("n"), Duration::from_millis(50)).unwrap()
    }

    #[test]
    fn files_are_as_the_plugin_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let (all, set) = (lock(dir.path()), set());
        let (address, _) = all.reserve(owner("a"), 0, &set, None, &|_| false).unwrap();
        assert_eq!(address.to_string(), "10.0.0.2");
        assert_eq!(fs::read(dir.path().join("n/10.0.0.2")).unwrap(), b"a\r\neth0");
        assert_eq!(fs::read(dir.path().join("n/last_reserved_ip.0")).unwrap(), b"10.0.0.2");
        all.release(owner("b"), &[address]).unwrap();
        assert!(all.holds(owner("a"), address), "another cannot give it back");
        all.release(owner("a"), &[address]).unwrap();
        let (next, _) = all.reserve(owner("a"), 0, &set, None, &|_| false).unwrap();
        assert_eq!(next.to_string(), "10.0.0.3", "an address comes back late");
    }

    #[test]
    fn a_full_range_says_so_and_an_address_can_be_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (all, set) = (lock(dir.path()), set());
        let wanted = "10.0.0.4".parse().unwrap();
        assert_eq!(all.reserve(owner("w"), 0, &set, Some(wanted), &|_| false).unwrap().0, wanted);
        let refused = |address: &str| {
            all.reserve(owner("x"), 0, &set, Some(address.parse().unwrap()), &|_| false)
                .unwrap_err()
        };
        for address in ["10.0.0.4", "10.0.0.1", "10.0.1.4"] {
            assert_eq!(refused(address).kind(), ErrorKind::Conflict, "{address}");
        }
        for _ in 0..4 {
            all.reserve(owner("a"), 0, &set, None, &|_| false).unwrap();
        }
        let error = all.reserve(owner("a"), 0, &set, None, &|_| false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        all.release_all(owner("a")).unwrap();
        assert_eq!(all.reserved().unwrap().len(), 1);
    }

    #[test]
    fn a_lock_of_another_is_waited_for_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path());
        let error = Reservations::lock("n", &dir.path().join("n"), Duration::from_millis(20));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        drop(held);
        lock(dir.path());
    }

    #[test]
    fn collecting_spares_the_living_and_the_old_format() {
        let dir = tempfile::tempdir().unwrap();
        let (all, set) = (lock(dir.path()), set());
        all.reserve(owner("a"), 0, &set, None, &|_| false).unwrap();
        all.reserve(owner("b"), 0, &set, None, &|_| false).unwrap();
        fs::write(dir.path().join("n/10.0.0.6"), "old").unwrap();
        let valid = [("b", "eth0"), ("old", "eth0")];
        let valid = valid.iter().map(|(i, f)| ((*i).to_owned(), (*f).to_owned())).collect();
        assert_eq!(all.retain(&valid).unwrap(), 1);
        assert!(dir.path().join("n/10.0.0.6").exists());
        assert!(dir.path().join("n/last_reserved_ip.0").exists());
    }
}
