//! The bounds, each hit; the message names the bound and, where there is one, the entry.

use std::io::Read;

use super::*;
use common::{Rig, unpack};

/// Kind and message.
fn refusal(words: &[&str], tar: &[u8]) -> (String, String) {
    let rig = Rig::new();
    let at = ["--root", rig.root_text()];
    let verb = if words[0] == "put" { &["put", "--path", "/"][..] } else { &["layer"] };
    let output = unpack(&[verb, &at, &words[1..]].concat(), tar);
    failure(&output).expect("refused")
}

#[test]
fn a_million_entries_in_a_few_kilobytes_end_at_the_limit() {
    if !is_root() {
        return;
    }
    let one = Tar::new().file("f", "").0;
    let bomb = zstd::encode_all(&one.repeat(1_000_000)[..], 1).expect("zstd");
    assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    let (kind, message) = refusal(&["layer", "--max-entries", "1000"], &bomb);
    assert_eq!(kind, "resource_exhausted");
    assert_eq!(message, "entry \"f\": archive has more than 1000 entries");
}

#[test]
fn an_entry_longer_than_the_limit_is_not_begun() {
    if !is_root() {
        return;
    }
    let head = Head { path: b"big", size: 0o77_777_777_777, ..Head::default() };
    // 8 GiB, of which nothing follows: the size alone is too much.
    let (kind, message) = refusal(&["layer", "--max-bytes", "1000000"], &Tar::new().head(&head).0);
    assert_eq!(kind, "resource_exhausted");
    assert!(message.starts_with("entry \"big\": "), "{message}");
    assert!(message.contains("longer than 1000000 bytes"), "{message}");
}

#[test]
fn what_is_behind_the_end_counts_too() {
    if !is_root() {
        return;
    }
    let tar = Tar::new().file("f", "x").raw(&[0; 1024]).raw(&[7; 8192]).0;
    let (kind, message) = refusal(&["layer", "--max-bytes", "100", "--max-entries", "1"], &tar);
    assert_eq!(kind, "resource_exhausted");
    assert!(message.contains("longer than 1124 bytes"), "{message}");
}

/// SEC-28: 4 GiB in 4 MiB, by the best that deflate can do.
#[test]
fn a_bomb_ends_at_the_ratio() {
    if !is_root() {
        return;
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(64 << 20), &mut encoder).expect("gzip");
    let bomb = encoder.finish().expect("gzip").repeat(66);
    assert!(bomb.len() < 8 << 20, "{} bytes", bomb.len());
    let tar = streams::gzip(&Tar::new().file("f", "x").end());
    let (kind, message) = refusal(&["put"], &[tar, bomb].concat());
    assert_eq!(kind, "resource_exhausted");
    assert!(message.ends_with("archive expands more than 512 times"), "{message}");
}

/// As many names as an inode can have, and more.
#[test]
fn more_hard_links_than_the_file_system_has() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let mut tar = Tar::new().file("f", "x");
    for n in 0..65_100 {
        tar = tar.hardlink(&format!("h{n}"), "f");
    }
    let output = rig.layer(&tar.end());
    match failure(&output) {
        // ext4 has 65,000.
        Some((kind, message)) => {
            assert_eq!(kind, "resource_exhausted", "{message}");
            assert!(message.starts_with("entry \"h") && message.contains("links"), "{message}");
        }
        None => {
            let links = rig.root.join("f").symlink_metadata().expect("f").nlink();
            assert_eq!(links, 65_101);
        }
    }
}

/// What can be unpacked can be packed again: 2,040 levels are one path for the kernel.
#[test]
fn the_deepest_tree_is_walked() {
    if !is_root() {
        return;
    }
    let outside = Outside::new();
    let root = outside.fresh_root();
    let deep = "d/".repeat(2040);
    let tar = Tar::new().pax(&[("path", (deep.clone() + "f").as_bytes())]).file("f", "x").end();
    assert_eq!(failure(&outside.layer(&tar)), None);
    let out = unpack(&["export", "--root", root.to_str().expect("UTF-8")], b"");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let again = outside.fresh_root();
    assert_eq!(failure(&outside.layer(&out.stdout)), None);
    let again = pouch_rootfd::RootFd::open(again).expect("open");
    assert_eq!(again.read_to_string_bounded(deep + "f", 10).expect("f"), "x");
}
