//! Sparse files: maps that lie about where bytes belong.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    vec![
        refused("sparse map that overlaps", old_gnu(&[(0, 2), (1, 1)], 10, b"abc")),
        refused("sparse map beyond the end", old_gnu(&[(8, 3)], 10, b"abc")),
        refused("sparse map that holds other bytes", old_gnu(&[(0, 2)], 10, b"abc")),
        refused("sparse file of 8 EiB", map_in_data(b"1\n0\n3\n", b"9223372036854775807")),
        refused("sparse map with a huge count", map_in_data(b"99999999\n0\n3\n", b"10")),
        refused("sparse map without an end", map_in_data(&[b'1'; 512], b"10")),
        refused("sparse map of letters", map_in_data(b"one\n", b"10")),
        refused(
            "sparse records in disorder",
            Tar::new()
                .pax(&[("GNU.sparse.numbytes", b"1"), ("GNU.sparse.offset", b"0")])
                .file("f", "x")
                .end(),
        ),
        contained("sparse file", old_gnu(&[(0, 1), (9, 2)], 11, b"abc"), |r| {
            assert_eq!(text(r, "s"), "a\0\0\0\0\0\0\0\0bc");
        }),
        contained("sparse file, map in the data", map_in_data(b"1\n7\n3\n", b"12"), |r| {
            assert_eq!(text(r, "s"), "\0\0\0\0\0\0\0abc\0\0");
        }),
        refused("sparse map out of order", old_gnu(&[(8, 2), (0, 1)], 20, b"abc")),
        refused("sparse map that overflows", old_gnu(&[(u64::MAX >> 31, 3)], 10, b"abc")),
        refused("sparse file whose real size is smaller", old_gnu(&[(0, 3)], 2, b"abc")),
        refused("sparse file whose real size is negative", {
            let mut tar = old_gnu(&[(0, 3)], 3, b"abc");
            tar[483..495].fill(0xff);
            common::sum(&mut tar[..512]);
            tar
        }),
        refused("sparse file with a negative offset", {
            let mut tar = old_gnu(&[(0, 3)], 3, b"abc");
            tar[386..398].fill(0xff);
            common::sum(&mut tar[..512]);
            tar
        }),
        contained(
            "sparse file with 200 holes",
            {
                let map: Vec<(u64, u64)> = (0..200).map(|n| (n * 4096, 1)).collect();
                old_gnu(&map, 200 * 4096, &[b'z'; 200])
            },
            |r| {
                let content = std::fs::read(r.join("s")).expect("s");
                assert_eq!(content.len(), 200 * 4096);
                assert_eq!(content.iter().filter(|byte| **byte == b'z').count(), 200);
            },
        ),
        refused("sparse map that goes on behind the end", {
            let mut tar = old_gnu(&[(0, 1), (2, 1), (4, 1), (6, 1), (8, 1)], 9, b"abcde");
            tar.truncate(512);
            tar
        }),
        refused("sparse map without an end, block after block", {
            let mut tar = old_gnu(&[(0, 1), (2, 1), (4, 1), (6, 1), (8, 1)], 9, b"abcde");
            tar.truncate(512);
            let mut block = [0u8; 512];
            for pair in block[..504].chunks_exact_mut(24) {
                pair.copy_from_slice(b"00000000000\x0000000000000\0");
            }
            block[504] = 1;
            for _ in 0..4000 {
                tar.extend_from_slice(&block);
            }
            tar
        }),
        contained("sparse file that is one hole", old_gnu(&[(1 << 30, 0)], 1 << 30, b""), |r| {
            let meta = r.join("s").symlink_metadata().expect("s");
            assert_eq!(meta.size(), 1 << 30);
            assert!(meta.blocks() < 64, "{} blocks", meta.blocks());
        }),
        contained(
            "sparse file by pairs of records",
            {
                sparse_0(&[
                    ("GNU.sparse.size", b"10"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.offset", b"0"),
                    ("GNU.sparse.numbytes", b"1"),
                    ("GNU.sparse.offset", b"8"),
                    ("GNU.sparse.numbytes", b"2"),
                ])
            },
            |r| assert_eq!(text(r, "s"), "a\0\0\0\0\0\0\0bc"),
        ),
        refused("sparse records without a real size", sparse_0(&[("GNU.sparse.map", b"0,3")])),
        refused("sparse map of an odd count", {
            sparse_0(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,1,2")])
        }),
        refused("sparse map with a negative number", {
            sparse_0(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"-1,3")])
        }),
        refused("sparse map with an empty number", {
            sparse_0(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,,3")])
        }),
        refused("sparse map in records that overlaps", {
            sparse_0(&[("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,2,1,1")])
        }),
        refused("sparse map in records beyond the end", {
            sparse_0(&[("GNU.sparse.size", b"2"), ("GNU.sparse.map", b"0,3")])
        }),
        refused("sparse records with an offset and no length", {
            sparse_0(&[("GNU.sparse.size", b"3"), ("GNU.sparse.offset", b"0")])
        }),
        refused("sparse map of 65,537 runs", {
            let runs = vec!["0,0"; 65_537].join(",");
            sparse_0(&[("GNU.sparse.size", b"3"), ("GNU.sparse.map", runs.as_bytes())])
        }),
        refused("sparse file of two sizes", {
            sparse_0(&[("GNU.sparse.size", b"3"), ("GNU.sparse.map", b"0,3"), ("size", b"2")])
        }),
        refused("sparse map in the data that is cut", map_in_data(b"2\n0\n", b"10")),
        refused("sparse map in the data with a negative number", map_in_data(b"1\n-1\n3\n", b"10")),
        refused("sparse map in the data with too long a number", {
            map_in_data(b"1\n000000000000000000000\n3\n", b"10")
        }),
        refused("sparse map in the data that overlaps", map_in_data(b"2\n0\n2\n1\n1\n", b"10")),
        refused("sparse map in no data", {
            Tar::new()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"1"),
                ])
                .file("s", "")
                .end()
        }),
        contained(
            "sparse records before what is no file",
            {
                Tar::new()
                    .pax(&[("GNU.sparse.size", b"99999999999999"), ("GNU.sparse.map", b"0,3")])
                    .dir("d/")
                    .file("f", "x")
                    .end()
            },
            |r| assert!(r.join("d").is_dir() && exists(r, "f")),
        ),
    ]
}

/// GNU's old format: the map in the header and in blocks behind it.
pub(super) fn old_gnu(map: &[(u64, u64)], real: u64, data: &[u8]) -> Vec<u8> {
    let mut tar = Tar::new().head(&Head {
        path: b"s",
        kind: b'S',
        size: data.len() as u64,
        ..Head::default()
    });
    tar.0[257..265].copy_from_slice(b"ustar  \0");
    let write = |block: &mut [u8], at: usize, map: &[(u64, u64)]| {
        for (n, (offset, length)) in map.iter().enumerate() {
            let at = at + n * 24;
            block[at..at + 11].copy_from_slice(format!("{offset:011o}").as_bytes());
            block[at + 12..at + 23].copy_from_slice(format!("{length:011o}").as_bytes());
        }
    };
    let (first, rest) = map.split_at(map.len().min(4));
    write(&mut tar.0, 386, first);
    tar.0[482] = u8::from(!rest.is_empty());
    tar.0[483..494].copy_from_slice(format!("{real:011o}").as_bytes());
    common::sum(&mut tar.0[..512]);
    let mut blocks = rest.chunks(21).peekable();
    while let Some(map) = blocks.next() {
        let mut block = [0u8; 512];
        write(&mut block, 0, map);
        block[504] = u8::from(blocks.peek().is_some());
        tar = tar.raw(&block);
    }
    tar.data(data).end()
}

/// Format 0.0 or 0.1: a file `s` with the stored bytes `abc` and the map in these records.
pub(super) fn sparse_0(records: &[(&str, &[u8])]) -> Vec<u8> {
    Tar::new().pax(records).file("s", "abc").end()
}

/// Format 1.0: the map in the data.
pub(super) fn map_in_data(map: &[u8], real: &[u8]) -> Vec<u8> {
    Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", real),
        ])
        .head(&Head { path: b"s", size: 512 + 3, ..Head::default() })
        .data(map)
        .data(b"abc")
        .end()
}
