//! SEC-27, SEC-28: archives that try to leave the root, to steer overlayfs, to smuggle what a host
//! believes, or to exhaust the reader. Each is unpacked as a layer and as a `cp` archive. Nothing
//! outside the root may change, and what is refused is refused with the entry's name and the
//! reason: `refusals.txt` holds every such line.
#![expect(clippy::expect_used, reason = "a failed set-up is a failed test")]

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod headers;
mod limits;
mod links;
mod mutations;
mod names;
mod numbers;
mod overlay;
mod sparse;
mod streams;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Head, Outside, Tar, census, failure, is_root};

/// What must come of an archive.
#[derive(Clone, Copy)]
enum Want {
    /// Refused, in the words of `refusals.txt`.
    Refused,
    /// Accepted, and then this holds below the root.
    Contained(fn(&Path)),
}

use Want::{Contained, Refused};

struct Case {
    name: &'static str,
    tar: Vec<u8>,
    layer: Want,
    put: Want,
}

/// As a layer and as a `cp` archive it is not the same: only layers have whiteouts.
fn case(name: &'static str, tar: Vec<u8>, layer: Want, put: Want) -> Case {
    Case { name, tar, layer, put }
}

fn refused(name: &'static str, tar: Vec<u8>) -> Case {
    case(name, tar, Refused, Refused)
}

fn contained(name: &'static str, tar: Vec<u8>, check: fn(&Path)) -> Case {
    case(name, tar, Contained(check), Contained(check))
}

fn exists(root: &Path, path: &str) -> bool {
    root.join(path).symlink_metadata().is_ok()
}

fn text(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(path)).expect(path)
}

fn mode(root: &Path, path: &str) -> u32 {
    root.join(path).symlink_metadata().expect(path).mode() & 0o7777
}

fn is_whiteout(root: &Path, path: &str) -> bool {
    let meta = root.join(path).symlink_metadata().expect(path);
    meta.mode() & 0o170_000 == 0o020_000 && meta.rdev() == 0
}

fn xattr(path: &Path, name: &str) -> bool {
    let mut value = [0u8; 64];
    rustix::fs::lgetxattr(path, name, &mut value[..]).is_ok()
}

/// `canary` is the path of the directory that must not change.
fn corpus(canary: &str) -> Vec<Case> {
    let families = [
        names::cases(canary),
        links::cases(canary),
        overlay::cases(),
        attributes::cases(),
        headers::cases(),
        numbers::cases(),
        sparse::cases(),
        streams::cases(),
    ];
    families.into_iter().flatten().collect()
}

/// Absolute names that archives of the corpus have; on the host there is nothing of the kind.
const HOST_NAMES: [&str; 4] = ["/evil", "/etc/evil", "/tmp/evil", "/h"];

/// Unpacks one archive beside a canary and compares.
fn run(outside: &Outside, case: &Case, verb: &str, refusals: &Mutex<BTreeMap<String, String>>) {
    let name = format!("{} ({verb})", case.name);
    let root = outside.fresh_root();
    let (output, want) = match verb {
        "layer" => (outside.layer(&case.tar), case.layer),
        _ => (outside.put(&case.tar), case.put),
    };
    assert_eq!(outside.changes(), Vec::<String>::new(), "{name}");
    for path in HOST_NAMES {
        assert!(Path::new(path).symlink_metadata().is_err(), "{name}: {path} on the host");
    }
    judge(&name, &output, want, &root, outside, refusals);
}

fn judge(
    name: &str,
    output: &Output,
    want: Want,
    root: &Path,
    outside: &Outside,
    refusals: &Mutex<BTreeMap<String, String>>,
) {
    match (failure(output), want) {
        (None, Contained(check)) => check(root),
        (Some((kind, message)), Refused) => {
            let canary = outside.canary().display().to_string();
            let message = message.replace(canary.trim_start_matches('/'), "CANARY");
            let line = format!("[{kind}] {message}");
            refusals.lock().expect("refusals").insert(name.to_owned(), line);
        }
        (None, Refused) => panic!("{name}: accepted: {:#?}", census(root)),
        (Some(_), Contained(_)) => panic!("{name}: {output:?}"),
    }
}

#[test]
fn every_archive_is_refused_by_name_or_contained() {
    if !is_root() {
        return;
    }
    let outside = [Outside::new(), Outside::new()];
    let count = corpus("/nowhere").len();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let refusals = Mutex::default();
    std::thread::scope(|scope| {
        for outside in &outside {
            let (next, failed, refusals) = (&next, &failed, &refusals);
            scope.spawn(move || {
                let cases = corpus(outside.canary().to_str().expect("UTF-8"));
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for verb in ["layer", "put"] {
                        let run = || run(outside, case, verb, refusals);
                        let done = catch_unwind(AssertUnwindSafe(run));
                        failed.fetch_add(usize::from(done.is_err()), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let got: Vec<String> = refusals
        .into_inner()
        .expect("refusals")
        .into_iter()
        .map(|(name, line)| format!("{name}: {line}"))
        .collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/refusals.txt");
    let file = std::fs::read_to_string(file).expect("refusals.txt");
    let want: Vec<&str> = file.lines().collect();
    let differences: Vec<&String> = got.iter().filter(|line| !want.contains(&&line[..])).collect();
    let missing: Vec<&&str> = want.iter().filter(|line| !got.iter().any(|g| g == *line)).collect();
    println!("{count} archives, each as layer and as cp archive; {} refused", got.len());
    for line in &differences {
        println!("{line}");
    }
    assert!(
        differences.is_empty() && missing.is_empty(),
        "refusals in other words, see above; expected:\n{missing:#?}"
    );
    assert_eq!(failed.into_inner(), 0, "archives that were not handled as they must");
    assert!(count >= 200, "only {count} archives");
}

#[test]
fn every_name_in_the_corpus_is_used_once() {
    let mut names: Vec<_> = corpus("/nowhere").into_iter().map(|case| case.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
