//! Numbers, types and checksums of headers, and archives that end where they should not.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let broken = |name, change| refused(name, changed(change));
    let mut bad_sum = Tar::new().file("f", "x");
    bad_sum.0[0] = b'g';
    let cut = |bytes: Vec<u8>, at: usize| bytes[..at].to_vec();
    vec![
        refused("checksum", bad_sum.end()),
        refused("not a tar", b"#!/bin/sh\n".repeat(200)),
        refused("one byte", vec![b'x']),
        refused("cut in the header", cut(Tar::new().file("f", "x").end(), 300)),
        refused("cut in the data", cut(Tar::new().file("f", &"x".repeat(2000)).end(), 1024)),
        refused("cut after an extended header", cut(Tar::new().pax(&[("path", b"f")]).end(), 1024)),
        broken("negative size", |h| h[124..136].copy_from_slice(b"-0000000001\0")),
        broken("size that is no number", |h| h[124..136].copy_from_slice(b"zzzzzzzzzzz\0")),
        broken("negative size in base 256", |h| h[124..136].fill(0xff)),
        broken("size of more than 64 bits", |h| {
            h[124..136].fill(0xff);
            h[124] = 0x80;
        }),
        broken("mode that is no number", |h| h[100..108].copy_from_slice(b"rwxrwxr\0")),
        broken("uid of -1", |h| {
            h[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        }),
        broken("uid beyond 32 bits", |h| {
            h[108..116].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0]);
        }),
        broken("unknown type", |h| h[156] = b'Z'),
        broken("multi-volume", |h| h[156] = b'M'),
        refused(
            "uid of 2^32 in pax",
            Tar::new().pax(&[("uid", b"4294967296")]).file("f", "").end(),
        ),
        refused(
            "uid of 2^64 in pax",
            Tar::new().pax(&[("uid", b"18446744073709551616")]).file("f", "").end(),
        ),
        refused(
            "huge size in pax",
            Tar::new().pax(&[("size", b"9223372036854775807")]).file("f", "x").end(),
        ),
        refused(
            "huge extended header",
            Tar::new().head(&Head { kind: b'x', size: 8 << 30, ..Head::default() }).end(),
        ),
        refused(
            "huge long name",
            Tar::new().head(&Head { kind: b'L', size: 8 << 30, ..Head::default() }).end(),
        ),
        refused("endless extended headers", {
            let mut tar = Tar::new();
            for _ in 0..1000 {
                tar = tar.pax(&[("path", b"x")]);
            }
            tar.file("f", "").end()
        }),
        refused(
            "record without a length",
            Tar::new().extension(b'x', b"path=x\n").file("f", "").end(),
        ),
        refused(
            "record longer than the header",
            Tar::new().extension(b'x', b"99 path=x\n").file("f", "").end(),
        ),
        refused(
            "record of length 0",
            Tar::new().extension(b'x', b"0 path=x\n").file("f", "").end(),
        ),
        contained(
            "the same file twice",
            Tar::new().file("f", "first, and longer").file("f", "last").end(),
            |r| {
                assert_eq!(text(r, "f"), "last");
            },
        ),
        contained(
            "size of a directory is not data",
            Tar::new()
                .head(&Head { path: b"d/", kind: b'5', size: 512, mode: 0o755, ..Head::default() })
                .file("f", "x")
                .end(),
            |r| {
                assert!(r.join("d").is_dir() && exists(r, "f"));
            },
        ),
        contained(
            "size of a link is not data",
            Tar::new()
                .head(&Head { path: b"l", kind: b'2', link: b"x", size: 512, ..Head::default() })
                .file("f", "x")
                .end(),
            |r| {
                assert!(exists(r, "f"));
            },
        ),
        contained("nothing", Vec::new(), |_| {}),
        contained("end marks only", Tar::new().end(), |_| {}),
        contained(
            "garbage behind the end",
            Tar::new().file("f", "x").raw(&[0; 1024]).raw(&[7; 4096]).0,
            |r| {
                assert!(exists(r, "f"));
            },
        ),
        refused(
            "garbage behind one end mark",
            Tar::new().file("f", "x").raw(&[0; 512]).raw(&[7; 512]).0,
        ),
        refused("checksum that is blank", {
            let mut tar = Tar::new().file("f", "x");
            tar.0[148..156].fill(b' ');
            tar.end()
        }),
        contained(
            "checksum of signed bytes",
            {
                let mut tar = Tar::new().head(&Head { path: b"\xc3\xa9", ..Head::default() });
                let head = &mut tar.0[..512];
                head[148..156].fill(b' ');
                let sum: i32 = head.iter().map(|byte| i32::from(byte.cast_signed())).sum();
                head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                tar.end()
            },
            |r| assert!(exists(r, "\u{e9}")),
        ),
        contained("header of 1979, without a magic", changed(|h| h[257..].fill(0)), |r| {
            assert_eq!(text(r, "f"), "x")
        }),
        contained("contiguous file", changed(|h| h[156] = b'7'), |r| assert_eq!(text(r, "f"), "x")),
        contained("type NUL", changed(|h| h[156] = 0), |r| assert_eq!(text(r, "f"), "x")),
        broken("volume label", |h| h[156] = b'V'),
        broken("directory dump", |h| h[156] = b'D'),
        broken("old long name", |h| h[156] = b'N'),
        broken("extended header of Solaris", |h| h[156] = b'X'),
        broken("access list of Solaris", |h| h[156] = b'A'),
        broken("inode of star", |h| h[156] = b'I'),
        broken("type beyond ASCII", |h| h[156] = 0xe9),
        broken("type that is a control character", |h| h[156] = 0x1b),
        contained(
            "mode with a file type and more",
            changed(|h| h[100..108].copy_from_slice(b"7100755\0")),
            |r| assert_eq!(mode(r, "f"), 0o755),
        ),
        broken("gid of letters", |h| h[116..124].copy_from_slice(b"staff\0\0\0")),
        broken("gid beyond 32 bits", |h| h[116..124].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0])),
        broken("negative uid in base 256", |h| h[108..116].fill(0xff)),
        contained(
            "largest uid and gid",
            {
                changed(|h| {
                    h[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
                    h[116..124].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
                })
            },
            |r| assert_eq!(r.join("f").symlink_metadata().expect("f").uid(), u32::MAX - 1),
        ),
        broken("time of letters", |h| h[136..148].copy_from_slice(b"yesterday\0\0\0")),
        broken("time beyond 64 bits", |h| {
            h[136..148].fill(0x7f);
            h[136] = 0x80;
        }),
        broken("negative time beyond 64 bits", |h| {
            h[136..148].fill(0);
            h[136] = 0xff;
        }),
        contained(
            "times at both ends",
            {
                let mut late = Tar::new().file("late", "");
                late.0[136] = 0x80;
                late.0[137..140].fill(0);
                late.0[140..148].copy_from_slice(&i64::MAX.to_be_bytes());
                common::sum(&mut late.0[..512]);
                let mut early = Tar::new().file("early", "");
                early.0[136..140].fill(0xff);
                early.0[140..148].copy_from_slice(&i64::MIN.to_be_bytes());
                common::sum(&mut early.0[..512]);
                late.raw(&early.0).end()
            },
            |r| {
                // The file system's own ends.
                let at = |path: &str| r.join(path).symlink_metadata().expect(path).mtime();
                assert!(
                    at("early") < 0 && at("late") > i64::from(u32::MAX),
                    "{} {}",
                    at("early"),
                    at("late")
                );
            },
        ),
        contained(
            "time before 1970 in base 256",
            {
                changed(|h| {
                    h[136..148].fill(0xff);
                    h[147] = 0xfe;
                })
            },
            |r| assert_eq!(r.join("f").symlink_metadata().expect("f").mtime(), -2),
        ),
        refused(
            "major number that mknod would cut",
            Tar::new().device("n", b'3', (4097, 1), 0o600).end(),
        ),
        refused(
            "minor number that mknod would cut",
            Tar::new().device("n", b'4', (1, 1 << 20), 0o600).end(),
        ),
        contained(
            "largest device number",
            Tar::new().device("n", b'3', (4095, (1 << 20) - 1), 0o600).end(),
            |r| {
                let device = r.join("n").symlink_metadata().expect("n").rdev();
                assert_eq!(device, rustix::fs::makedev(4095, (1 << 20) - 1));
            },
        ),
        refused("device number of letters", {
            let mut tar = Tar::new().device("n", b'3', (1, 3), 0o600);
            tar.0[329..337].copy_from_slice(b"mem\0\0\0\0\0");
            common::sum(&mut tar.0[..512]);
            tar.end()
        }),
        refused("cut in the padding", cut(Tar::new().file("f", "x").end(), 700)),
        refused("cut within the second header", {
            cut(Tar::new().file("f", "x").file("g", "y").end(), 1024 + 17)
        }),
        refused("damage between two entries", {
            Tar::new().file("f", "x").raw(&[7; 512]).file("g", "y").end()
        }),
        contained("no end marks", Tar::new().file("f", "x").0, |r| assert_eq!(text(r, "f"), "x")),
        contained("one end mark", Tar::new().file("f", "x").raw(&[0; 512]).0, |r| {
            assert_eq!(text(r, "f"), "x");
        }),
        contained(
            "two archives in a row are the first",
            [Tar::new().file("f", "x").end(), Tar::new().file("../evil", "x").end()].concat(),
            |r| assert_eq!(std::fs::read_dir(r).expect("list").count(), 1),
        ),
        contained(
            "size of a hard link is not data",
            {
                Tar::new()
                    .file("f", "x")
                    .head(&Head {
                        path: b"h",
                        kind: b'1',
                        link: b"f",
                        size: 512,
                        ..Head::default()
                    })
                    .file("g", "y")
                    .end()
            },
            |r| assert_eq!((text(r, "h"), text(r, "g")), ("x".into(), "y".into())),
        ),
        contained(
            "size of a device is not data",
            {
                Tar::new()
                    .head(&Head {
                        path: b"n",
                        kind: b'3',
                        size: 512,
                        device: (1, 3),
                        ..Head::default()
                    })
                    .file("g", "y")
                    .end()
            },
            |r| assert_eq!(text(r, "g"), "y"),
        ),
        refused("size that swallows the end", {
            changed(|h| h[124..136].copy_from_slice(b"00000010000\0"))
        }),
    ]
}

/// A file `f` whose header is changed and then has a right checksum.
fn changed(change: fn(&mut [u8])) -> Vec<u8> {
    let mut tar = Tar::new().file("f", "x");
    change(&mut tar.0[..512]);
    common::sum(&mut tar.0[..512]);
    tar.end()
}
