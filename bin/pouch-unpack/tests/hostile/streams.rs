//! What is around the tar: compressions that are cut, damaged, nested or greedy.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    vec![
        refused("cut gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]),
        refused("cut zstd", vec![0x28, 0xb5, 0x2f, 0xfd, 0, 1, 2, 3]),
        refused("cut xz", vec![0xfd, b'7', b'z', b'X', b'Z', 0, 0, 4]),
        refused("cut bzip2", b"BZh91AY&SY".to_vec()),
        contained(
            "two gzip members",
            {
                let tar = Tar::new().file("f", "x").end();
                [gzip(&tar[..700]), gzip(&tar[700..])].concat()
            },
            |r| assert_eq!(text(r, "f"), "x"),
        ),
        refused("gzip with garbage behind it", [gzip(&small()), b"garbage".to_vec()].concat()),
        refused("gzip cut in its last bytes", cut(gzip(&small()), 3)),
        refused("gzip cut in the content of a file", {
            cut(gzip(&Tar::new().file("f", &noise(50_000)).end()), 20_000)
        }),
        refused("gzip with a wrong checksum", {
            let mut bytes = gzip(&small());
            let at = bytes.len() - 8;
            bytes[at] ^= 1;
            bytes
        }),
        refused("gzip with a wrong length", {
            let mut bytes = gzip(&small());
            let at = bytes.len() - 4;
            bytes[at] ^= 1;
            bytes
        }),
        refused("gzip with damage in the content", {
            let mut bytes = gzip(&Tar::new().file("f", &noise(50_000)).end());
            bytes[10_000..10_100].fill(0);
            bytes
        }),
        refused("deflate with an unknown block", {
            let mut bytes = gzip(&small());
            bytes[10] = 0x07;
            bytes
        }),
        refused("gzip in gzip", gzip(&gzip(&small()))),
        refused("zstd in gzip", gzip(&zstd::encode_all(&small()[..], 1).expect("zstd"))),
        refused("zlib is no gzip", {
            let mut bytes = vec![0x78, 0x9c];
            bytes.extend_from_slice(&gzip(&small())[10..]);
            bytes
        }),
        contained(
            "zstd behind a skippable frame",
            {
                let frame = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
                [frame, zstd::encode_all(&small()[..], 1).expect("zstd")].concat()
            },
            |r| assert_eq!(text(r, "f"), "x"),
        ),
        refused("skippable frame of 4 GiB", {
            vec![0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]
        }),
        contained(
            "zstd of nothing but a skippable frame",
            vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3],
            |r| assert_eq!(std::fs::read_dir(r).expect("list").count(), 0),
        ),
        // Frame header: window of 2^41, then of what is allowed and a block that is cut.
        refused("zstd with a window of 2 TiB", vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8, 1, 0, 0]),
        refused("zstd with a window of 256 MiB", vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x90, 1, 0, 0]),
        refused("zstd with a dictionary", vec![0x28, 0xb5, 0x2f, 0xfd, 0x01, 0x58, 7, 1, 0, 0]),
        refused("zstd with a wrong checksum", {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("zstd");
            encoder.include_checksum(true).expect("zstd");
            std::io::Write::write_all(&mut encoder, &small()).expect("zstd");
            let mut bytes = encoder.finish().expect("zstd");
            let at = bytes.len() - 1;
            bytes[at] ^= 1;
            bytes
        }),
        refused("zstd with garbage behind it", {
            [zstd::encode_all(&small()[..], 1).expect("zstd"), b"garbage".to_vec()].concat()
        }),
        refused("xz with damage", {
            let mut bytes = xz(&small());
            let at = bytes.len() / 2;
            bytes[at] ^= 0x55;
            bytes
        }),
        refused("xz that wants 4 GiB of memory", {
            // The dictionary's size stands in the block header, under a checksum of its own.
            let mut bytes = xz(&small());
            bytes[16] = 40;
            let sum = crc32(&bytes[12..20]);
            bytes[20..24].copy_from_slice(&sum.to_le_bytes());
            bytes
        }),
        contained(
            "bzip2 in two parts",
            {
                let tar = small();
                [bzip2(&tar[..700]), bzip2(&tar[700..])].concat()
            },
            |r| assert_eq!(text(r, "f"), "x"),
        ),
        refused("bzip2 with damage", {
            let mut bytes = bzip2(&small());
            let at = bytes.len() / 2;
            bytes[at] ^= 0x55;
            bytes
        }),
        refused(
            "lz4 is not understood",
            vec![0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7, 0, 0, 0, 0],
        ),
        refused("zip is not understood", [b"PK\x03\x04", &[0u8; 600][..]].concat()),
        refused("a manifest where a layer should be", {
            br#"{"schemaVersion":2,"layers":[{"digest":"sha256:00"}]}"#.repeat(20)
        }),
        refused("a magic of tar in a gzip header", {
            let mut bytes = gzip(&small());
            bytes.resize(600, 0);
            bytes[257..262].copy_from_slice(b"ustar");
            bytes
        }),
        contained(
            "a file that is an archive is a file",
            {
                let inner = Tar::new().file("../evil", "x").end();
                Tar::new()
                    .head(&Head { path: b"inner.tar", size: inner.len() as u64, ..Head::default() })
                    .data(&inner)
                    .end()
            },
            |r| assert_eq!(std::fs::read_dir(r).expect("list").count(), 1),
        ),
    ]
}

fn small() -> Vec<u8> {
    Tar::new().file("f", "x").end()
}

fn cut(mut bytes: Vec<u8>, off: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - off);
    bytes
}

/// Text that no coder shortens much.
fn noise(length: usize) -> String {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + u8::try_from(state >> 26).expect("6 bits"))
    };
    (0..length).map(|_| next()).collect()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).expect("bzip2");
    encoder.finish().expect("bzip2")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    std::io::Write::write_all(&mut encoder, bytes).expect("xz");
    encoder.finish().expect("xz")
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
