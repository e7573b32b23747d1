//! Where programs are: ours beside the test, others in PATH.

use std::path::PathBuf;

/// A program of ours, from `POUCH_BIN_DIR` or from where cargo puts what it builds.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("POUCH_BIN_DIR") {
        return PathBuf::from(dir).join(name);
    }
    // target/<triple>/<profile>/deps/<test>
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().join(name)
}

/// A program in PATH.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// Whether a program is in PATH; says that the test is skipped when it is not.
#[must_use]
pub fn have(name: &str) -> bool {
    let found = in_path(name).is_some();
    if !found {
        println!("skipped: {name} is not installed");
    }
    found
}

/// Whether a daemon can be started here; says why not.
pub(crate) fn ready() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    for name in ["pouchd", "pouch", "containerd-shim-pouch-v2", "pouch-runtime", "pouch-unpack"] {
        let path = program(name);
        if !path.exists() {
            println!("skipped: {} is not built", path.display());
            return false;
        }
    }
    if !std::path::Path::new("/bin/busybox").exists() {
        println!("skipped: no /bin/busybox (package busybox-static)");
        return false;
    }
    ["ip", "nft", "nsenter", "setsid", "docker"].into_iter().all(have)
}
