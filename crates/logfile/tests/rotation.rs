//! Writer and reader over real files.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;

use pouch_logfile::{
    Driver, Encoder, Extent, ReadOptions, Reader, Record, RecordRef, Rotation, Stream, Writer,
};

fn writer(path: &Path, driver: Driver, max_size: u64, max_files: u32) -> Writer {
    let encoder = Encoder::new(driver, &BTreeMap::new());
    Writer::open(path, encoder, Rotation { max_size, max_files }).unwrap()
}

fn put(writer: &mut Writer, number: u64) {
    let line = number.to_string();
    let time_ns = i64::try_from(number).unwrap();
    let line = line.as_bytes();
    writer.append(RecordRef { stream: Stream::Stdout, time_ns, partial: false, line }).unwrap();
}

fn number(record: &Record) -> u64 {
    std::str::from_utf8(&record.line).unwrap().parse().unwrap()
}

fn read(path: &Path, driver: Driver, options: &ReadOptions) -> Vec<u64> {
    let mut reader = Reader::open(path, driver, options).unwrap();
    std::iter::from_fn(|| reader.poll_next().unwrap()).map(|r| number(&r)).collect()
}

const DRIVERS: [Driver; 2] = [Driver::JsonFile, Driver::Local];

#[test]
fn rotation_keeps_size_count_and_order() {
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = writer(&path, driver, 1000, 3);
        (0..500).for_each(|n| put(&mut log, n));
        log.flush().unwrap();
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .inspect(|entry| assert!(entry.metadata().unwrap().len() <= 1000))
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        let numbers = read(&path, driver, &ReadOptions::default());
        assert!(numbers.len() > 20, "{driver:?}: {}", numbers.len());
        let first = numbers[0];
        assert_eq!(numbers, (first..500).collect::<Vec<_>>());
    }
}

#[test]
fn one_file_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = writer(&path, Driver::JsonFile, 500, 1);
    (0..100).for_each(|n| put(&mut log, n));
    log.flush().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(read(&path, Driver::JsonFile, &ReadOptions::default()).last(), Some(&99));
}

#[test]
fn tail_since_and_until_over_rotated_files() {
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = writer(&path, driver, 2000, 10);
        (0..100).for_each(|n| put(&mut log, n));
        log.flush().unwrap();
        for tail in [0, 1, 7, 60, 99, 100, 1000] {
            let options = ReadOptions { tail: Some(tail), ..ReadOptions::default() };
            let want: Vec<u64> = (100 - (tail as u64).min(100)..100).collect();
            assert_eq!(read(&path, driver, &options), want, "{driver:?} {tail}");
        }
        let options = ReadOptions { since: Some(40), until: Some(42), ..ReadOptions::default() };
        assert_eq!(read(&path, driver, &options), [40, 41, 42]);
        let options = ReadOptions { since: Some(95), tail: Some(10), ..ReadOptions::default() };
        assert_eq!(read(&path, driver, &options), [95, 96, 97, 98, 99]);
    }
}

#[test]
fn a_follower_loses_and_repeats_nothing_over_rotations() {
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let options = ReadOptions { extent: Extent::Follow, ..ReadOptions::default() };
        // Opened before the log exists.
        let mut reader = Reader::open(&path, driver, &options).unwrap();
        assert_eq!(reader.poll_next().unwrap(), None);
        let mut log = writer(&path, driver, 3000, 5);
        let mut seen = Vec::new();
        for n in 0..2000 {
            put(&mut log, n);
            if n % 7 == 0 {
                log.flush().unwrap();
            }
            // Falls behind by up to three rotations.
            if n % 150 == 0 {
                while let Some(record) = reader.poll_next().unwrap() {
                    seen.push(number(&record));
                }
            }
        }
        log.flush().unwrap();
        while let Some(record) = reader.poll_next().unwrap() {
            seen.push(number(&record));
        }
        assert_eq!(seen, (0..2000).collect::<Vec<_>>(), "{driver:?}");
    }
}

#[test]
fn a_follower_beside_a_writing_thread() {
    for driver in DRIVERS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let target = path.clone();
        let thread = std::thread::spawn(move || {
            let mut log = writer(&target, driver, 20_000, 50);
            for n in 0..20_000 {
                put(&mut log, n);
                if n % 3 == 0 {
                    log.flush().unwrap();
                }
            }
        });
        let options = ReadOptions { extent: Extent::Follow, ..ReadOptions::default() };
        let mut reader = Reader::open(&path, driver, &options).unwrap();
        let mut next = 0;
        while next < 20_000 {
            match reader.poll_next().unwrap() {
                Some(record) => {
                    assert_eq!(number(&record), next, "{driver:?}");
                    next += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        thread.join().unwrap();
    }
}

#[test]
fn a_present_reader_stops_where_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = writer(&path, Driver::JsonFile, 0, 1);
    put(&mut log, 1);
    log.flush().unwrap();
    let mut reader = Reader::open(&path, Driver::JsonFile, &ReadOptions::default()).unwrap();
    put(&mut log, 2);
    log.flush().unwrap();
    assert_eq!(reader.poll_next().unwrap().map(|r| number(&r)), Some(1));
    assert_eq!(reader.poll_next().unwrap(), None);
}

#[test]
fn a_torn_end_is_repaired() {
    for driver in DRIVERS {
        for cut in 1..20 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = writer(&path, driver, 0, 1);
            put(&mut log, 1);
            put(&mut log, 2);
            drop(log);
            let size = std::fs::metadata(&path).unwrap().len();
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(size - cut).unwrap();
            let mut log = writer(&path, driver, 0, 1);
            put(&mut log, 3);
            drop(log);
            let numbers = read(&path, driver, &ReadOptions::default());
            // Without its newline a JSON record is still whole.
            let whole = driver == Driver::JsonFile && cut == 1;
            let want: &[u64] = if whole { &[1, 2, 3] } else { &[1, 3] };
            assert_eq!(numbers, want, "{driver:?} {cut}");
        }
    }
}

#[test]
fn a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    let encoder = Encoder::new(Driver::JsonFile, &BTreeMap::new());
    assert!(Writer::open(&path, encoder, Rotation { max_size: 0, max_files: 1 }).is_err());
    assert!(Reader::open(&path, Driver::JsonFile, &ReadOptions::default()).is_err());
}

#[test]
fn a_full_disk_drops_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    if rustix::mount::mount(
        "tmpfs",
        &mount,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        c"size=64k",
    )
    .is_err()
    {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let path = mount.join("log");
    let filler = mount.join("filler");
    let mut log = writer(&path, Driver::JsonFile, 0, 1);
    put(&mut log, 1);
    log.flush().unwrap();
    let _ = std::fs::write(&filler, vec![0; 1 << 20]);
    let mut lost = 0;
    for n in 2..200 {
        let line = n.to_string();
        let line = line.as_bytes();
        let record = RecordRef { stream: Stream::Stdout, time_ns: n, partial: false, line };
        log.append(record).unwrap();
        if log.flush().is_err() {
            lost += 1;
        }
    }
    assert!(lost > 0);
    assert_eq!(log.dropped(), lost);
    std::fs::remove_file(&filler).unwrap();
    put(&mut log, 1000);
    log.flush().unwrap();
    assert_eq!(log.dropped(), 0);
    drop(log);
    let mut reader = Reader::open(&path, Driver::JsonFile, &ReadOptions::default()).unwrap();
    let records: Vec<Record> = std::iter::from_fn(|| reader.poll_next().unwrap()).collect();
    let notice = &records[records.len() - 2];
    assert_eq!(notice.stream, Stream::Stderr);
    let text = String::from_utf8(notice.line.clone()).unwrap();
    assert!(text.contains(&format!("{lost} log records were lost")), "{text}");
    assert_eq!(records.last().unwrap().line, b"1000");
    rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_renamed_file_is_left_alone_and_followed_by_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    // No size makes it rotate by itself.
    let mut log = writer(&path, Driver::Cri, 10, 5);
    (0..50).for_each(|n| put(&mut log, n));
    log.flush().unwrap();
    let follow = ReadOptions { extent: Extent::Follow, ..ReadOptions::default() };
    let mut follower = Reader::open(&path, Driver::Cri, &follow).unwrap();
    let mut seen = Vec::new();
    let mut look = || {
        seen.extend(std::iter::from_fn(|| follower.poll_next().unwrap()).map(|r| number(&r)));
        seen.len()
    };
    assert_eq!(look(), 50);
    let old = dir.path().join("0.log.20260102-030405");
    std::fs::rename(&path, &old).unwrap();
    put(&mut log, 50);
    log.flush().unwrap();
    assert!(!path.exists(), "made before it was asked for");
    assert_eq!(look(), 51, "what comes before the new file is in the old one");
    put(&mut log, 51);
    log.reopen().unwrap();
    let before = std::fs::read(&old).unwrap();
    put(&mut log, 52);
    log.flush().unwrap();
    assert_eq!(look(), 53);
    assert_eq!(std::fs::read(&old).unwrap(), before);
    assert_eq!(read(&path, Driver::Cri, &ReadOptions::default()), [52]);
    assert_eq!(read(&old, Driver::Cri, &ReadOptions::default()), (0..52).collect::<Vec<_>>());
    assert_eq!(seen, (0..53).collect::<Vec<_>>());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_new_file_that_cannot_be_made_leaves_the_old_one_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pod/0.log");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let mut log = writer(&path, Driver::Cri, 0, 1);
    put(&mut log, 0);
    log.flush().unwrap();
    let moved = dir.path().join("moved");
    std::fs::rename(path.parent().unwrap(), &moved).unwrap();
    log.reopen().unwrap_err();
    put(&mut log, 1);
    log.flush().unwrap();
    assert_eq!(read(&moved.join("0.log"), Driver::Cri, &ReadOptions::default()), [0, 1]);
}
