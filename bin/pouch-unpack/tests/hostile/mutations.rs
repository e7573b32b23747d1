//! Valid layers with something changed, the same changes each time. Whatever comes of it: the
//! program ends by itself with an exit status of its own, nothing outside the root changes, and
//! what it calls a layer is a tree that can be walked.

use std::io::Read;
use std::time::{Duration, Instant};

use super::*;

/// How many, unless they take longer than [`PATIENCE`].
const MUTATIONS: u64 = 2000;
const PATIENCE: Duration = Duration::from_secs(20);
/// Fewer than these prove little, however slow the machine.
const LEAST: u64 = 200;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() >> 33).expect("31 bits") % bound
    }

    fn byte(&mut self) -> u8 {
        self.roll().to_be_bytes()[0]
    }
}

fn seeds(canary: &str) -> Vec<Vec<u8>> {
    let layer = Tar::new()
        .dir("./")
        .dir("etc/")
        .file("etc/passwd", "root:x:0:0::/:/bin/sh\n")
        .symlink("out", canary)
        .symlink("in", "/etc")
        .file("in/through", "x")
        .hardlink("etc/second", "etc/passwd")
        .device("null", b'3', (1, 3), 0o666)
        .device("pipe", b'6', (0, 0), 0o600)
        .file("etc/.wh.gone", "")
        .file("var/.wh..wh..opq", "")
        .end();
    let extended = Tar::new()
        .pax(&[
            ("path", ["long/".repeat(40), "name".into()].join("").as_bytes()),
            ("SCHILY.xattr.user.k", b"v"),
            ("mtime", b"1700000000.123456789"),
            ("uid", b"1000"),
        ])
        .file("short", &"content ".repeat(300))
        .extension(b'L', &[&b"n".repeat(150)[..], b"\0"].concat())
        .file("short", "y")
        .extension(b'K', &[&b"t".repeat(150)[..], b"\0"].concat())
        .symlink("l", "")
        .extension(b'g', b"6 a=b\n")
        .dir("d/")
        .symlink("d/up", "../../../..")
        .file("d/up/f", "x")
        .end();
    let sparse = [
        sparse::old_gnu(&[(0, 1), (4096, 1), (8192, 1), (12288, 1), (16384, 2)], 20_000, b"abcdef"),
        sparse::map_in_data(b"1\n7\n3\n", b"12"),
        sparse::sparse_0(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,1,5,2")]),
    ]
    .map(|tar| tar[..tar.len() - 1024].to_vec())
    .concat();
    vec![layer, extended, sparse]
}

/// Where headers are: blocks whose checksum is right.
fn headers(tar: &[u8]) -> Vec<usize> {
    let is_header = |at: &usize| {
        let mut block = tar[*at..*at + 512].to_vec();
        let told = block[148..156].to_vec();
        common::sum(&mut block);
        block[148..156] == told[..]
    };
    (0..tar.len() / 512).map(|n| n * 512).filter(is_header).collect()
}

/// Fields of a header: offset, length.
const FIELDS: [(usize, usize); 14] = [
    (0, 100),
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (156, 1),
    (157, 100),
    (257, 8),
    (329, 8),
    (337, 8),
    (345, 155),
    (386, 97),
    (483, 12),
];

const WORDS: [&[u8]; 14] = [
    b"../evil\0",
    b"/evil\0",
    b"in/../../evil\0",
    b"out/evil\0",
    b".wh.etc\0",
    b".wh..wh..opq\0",
    b"./\0",
    b"\0",
    b"00000000001\0",
    b"77777777777\0",
    b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"-0000000001\0",
    b"ustar  \0",
];

fn edit_header(tar: &mut [u8], dice: &mut Dice) {
    let headers = headers(tar);
    if headers.is_empty() {
        return;
    }
    let at = headers[dice.below(headers.len())];
    let (offset, length) = FIELDS[dice.below(FIELDS.len())];
    let field = &mut tar[at + offset..at + offset + length];
    match dice.below(4) {
        0 if length == 1 => field[0] = b"01234567xgLKSVDMNAX\0Z"[dice.below(21)],
        0 | 1 => {
            let word = WORDS[dice.below(WORDS.len())];
            let n = word.len().min(length);
            field[..n].copy_from_slice(&word[..n]);
        }
        2 => field[dice.below(length)] = dice.byte(),
        _ => field.fill([0, b' ', b'7', 0xff][dice.below(4)]),
    }
    common::sum(&mut tar[at..at + 512]);
}

fn mutate(tar: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut Dice) {
    if tar.is_empty() {
        return;
    }
    let block = |dice: &mut Dice, bytes: &[u8]| dice.below(bytes.len() / 512 + 1) * 512;
    match dice.below(8) {
        0..=2 => edit_header(tar, dice),
        3 => {
            let at = dice.below(tar.len());
            tar[at] ^= 1 << dice.below(8);
        }
        4 => tar.truncate(dice.below(tar.len())),
        5 => {
            // Some blocks of another layer, here.
            let other = &others[dice.below(others.len())];
            let from = block(dice, other).min(other.len());
            let to = (from + 512 * (1 + dice.below(4))).min(other.len());
            let at = block(dice, tar).min(tar.len());
            tar.splice(at..at, other[from..to].iter().copied());
        }
        6 => {
            let at = block(dice, tar).min(tar.len());
            let end = (at + 512 * (1 + dice.below(3))).min(tar.len());
            tar.drain(at..end);
        }
        _ => {
            // A digit of what may be a record.
            let digits: Vec<usize> =
                (0..tar.len()).filter(|at| tar[*at].is_ascii_digit()).collect();
            if !digits.is_empty() {
                tar[digits[dice.below(digits.len())]] = b'0' + dice.byte() % 10;
            }
        }
    }
}

fn mutated(seed: u64, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut tar = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(3) {
        mutate(&mut tar, seeds, &mut dice);
    }
    if dice.below(8) > 0 {
        return tar;
    }
    let mut packed = if dice.below(2) == 0 {
        streams::gzip(&tar)
    } else {
        zstd::encode_all(&tar[..], 1).expect("zstd")
    };
    let at = dice.below(packed.len());
    packed[at] ^= 1 << dice.below(8);
    packed
}

/// Looks at everything; of files that may be huge holes only the begin is read.
fn walk(root: &Path) {
    let mut todo = vec![root.to_owned()];
    while let Some(at) = todo.pop() {
        let meta = at.symlink_metadata().expect("stat");
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&at).expect("list").map(|e| e.expect("entry").path()));
        } else if meta.is_file() {
            let mut begin = [0u8; 4096];
            let n = std::fs::File::open(&at).expect("open").read(&mut begin).expect("read");
            assert!(n as u64 <= meta.len());
        } else if meta.is_symlink() {
            at.read_link().expect("link");
        }
    }
}

#[test]
fn changed_layers_are_refused_or_contained() {
    if !is_root() {
        return;
    }
    let started = Instant::now();
    let (next, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let outside = Outside::new();
                // The same bytes in each run and each thread.
                let seeds = seeds("/nowhere/canary");
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed) as u64;
                    let late = seed >= LEAST && started.elapsed() > PATIENCE;
                    if seed >= MUTATIONS || late {
                        break;
                    }
                    let tar = mutated(seed, &seeds);
                    let root = outside.fresh_root();
                    let verb = if seed.is_multiple_of(4) { "put" } else { "layer" };
                    let output =
                        if verb == "put" { outside.put(&tar) } else { outside.layer(&tar) };
                    assert_eq!(outside.changes(), Vec::<String>::new(), "seed {seed} ({verb})");
                    for path in HOST_NAMES {
                        assert!(Path::new(path).symlink_metadata().is_err(), "seed {seed}: {path}");
                    }
                    match failure(&output) {
                        None => {
                            walk(&root);
                            accepted.fetch_add(1, Ordering::Relaxed);
                        }
                        Some((kind, message)) => {
                            assert_ne!(kind, "internal", "seed {seed} ({verb}): {message}");
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (done, accepted) = (done.into_inner(), accepted.into_inner());
    println!("{done} changed layers in {:?}, {accepted} of them still layers", started.elapsed());
    assert!(accepted > 0 && accepted < done, "changes that change nothing, or everything");
}
