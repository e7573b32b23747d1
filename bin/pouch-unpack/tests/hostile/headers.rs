//! Extended headers: records and long names that override, contradict or do not end.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let pax = |data: &[u8]| Tar::new().extension(b'x', data).file("f", "x").end();
    vec![
        contained(
            "empty path takes the override back",
            Tar::new().pax(&[("path", b"../evil"), ("path", b"")]).file("f", "x").end(),
            |r| assert_eq!(text(r, "f"), "x"),
        ),
        contained(
            "path twice",
            Tar::new().pax(&[("path", b"../evil"), ("path", b"ok")]).file("f", "x").end(),
            |r| assert_eq!(text(r, "ok"), "x"),
        ),
        refused("path twice, the bad one last", {
            Tar::new().pax(&[("path", b"ok"), ("path", b"../evil")]).file("f", "x").end()
        }),
        refused("record with a negative length", pax(b"-5 a=b\n")),
        refused("record with a sign before its length", pax(b"+6 a=b\n")),
        refused("record whose length is 2^64", pax(b"18446744073709551616 a=b\n")),
        refused("record whose length ends in the next", pax(b"9 a=b\n6 c=d\n")),
        refused("record without an equals sign", pax(b"7 abcd\n")),
        refused("record without a line end", pax(b"6 a=bc")),
        refused("record that is empty", pax(b"\n")),
        refused("zeros behind the records", pax(b"6 a=b\n\0\0")),
        contained("record without a key", pax(b"5 =b\n"), |r| assert_eq!(text(r, "f"), "x")),
        contained("extended header without records", pax(b""), |r| assert_eq!(text(r, "f"), "x")),
        contained(
            "records of other programs",
            {
                Tar::new()
                    .pax(&[
                        ("charset", b"BINARY"),
                        ("hdrcharset", b"BINARY"),
                        ("comment", b"../evil"),
                        ("atime", b"nonsense"),
                        ("ctime", b"-1"),
                        ("SCHILY.dev", b"1"),
                        ("uname", b"root"),
                        ("APK-TOOLS.checksum.SHA1", b"00"),
                    ])
                    .file("f", "x")
                    .end()
            },
            |r| assert_eq!(text(r, "f"), "x"),
        ),
        contained(
            "global header with a path",
            {
                let record = b"16 path=../evil\n";
                Tar::new().extension(b'g', record).file("f", "x").file("g", "y").end()
            },
            |r| assert_eq!((text(r, "f"), text(r, "g")), ("x".into(), "y".into())),
        ),
        contained(
            "global header with a size",
            Tar::new().extension(b'g', b"12 size=512\n").file("f", "x").file("g", "y").end(),
            |r| assert_eq!(text(r, "g"), "y"),
        ),
        contained(
            "global header that does not parse",
            Tar::new().extension(b'g', b"nonsense").file("f", "x").end(),
            |r| assert_eq!(text(r, "f"), "x"),
        ),
        contained(
            "global header and no entry",
            Tar::new().extension(b'g', b"11 comment=\n").end(),
            |r| assert_eq!(std::fs::read_dir(r).expect("list").count(), 0),
        ),
        refused("global headers without end", {
            let mut tar = Tar::new().file("f", "x");
            for _ in 0..100 {
                tar = tar.extension(b'g', b"6 a=b\n");
            }
            tar.file("g", "").end()
        }),
        refused(
            "extended header and no entry",
            Tar::new().file("f", "").pax(&[("path", b"x")]).end(),
        ),
        refused("long name and no entry", Tar::new().extension(b'L', b"x\0").end()),
        refused("extended header of 1 MiB and a byte", {
            Tar::new()
                .file("f", "x")
                .extension(b'x', &vec![b'a'; (1 << 20) + 1])
                .file("g", "")
                .end()
        }),
        refused("long name of 1 MiB and a byte", {
            Tar::new().extension(b'L', &vec![b'n'; (1 << 20) + 1]).file("g", "").end()
        }),
        refused("17 extended headers", {
            (0..17).fold(Tar::new(), |tar, _| tar.pax(&[("path", b"x")])).file("f", "").end()
        }),
        contained(
            "16 extended headers",
            (0..16).fold(Tar::new(), |tar, _| tar.pax(&[("path", b"x")])).file("f", "y").end(),
            |r| assert_eq!(text(r, "x"), "y"),
        ),
        contained(
            "long name without a NUL",
            Tar::new().extension(b'L', b"named").file("f", "x").end(),
            |r| assert_eq!(text(r, "named"), "x"),
        ),
        contained(
            "long name with a NUL inside",
            Tar::new().extension(b'L', b"named\0/../../evil\0").file("f", "x").end(),
            |r| assert_eq!(text(r, "named"), "x"),
        ),
        contained(
            "long name twice",
            {
                let tar = Tar::new().extension(b'L', b"../evil\0").extension(b'L', b"named\0");
                tar.file("f", "x").end()
            },
            |r| assert_eq!(text(r, "named"), "x"),
        ),
        contained(
            "long name, records, long name",
            {
                Tar::new()
                    .extension(b'L', b"../evil\0")
                    .pax(&[("path", b"../evil")])
                    .extension(b'L', b"named\0")
                    .file("f", "x")
                    .end()
            },
            |r| assert_eq!(text(r, "named"), "x"),
        ),
        refused("long name that is empty", Tar::new().extension(b'L', b"\0").file("f", "x").end()),
        refused("long name of 8 KiB", {
            Tar::new().extension(b'L', &[b'n'; 8192]).file("f", "x").end()
        }),
        refused("long link of 8 KiB", {
            Tar::new().extension(b'K', &[b'n'; 8192]).symlink("l", "").end()
        }),
        contained(
            "long link before a file",
            Tar::new().extension(b'K', b"/etc/passwd\0").file("f", "x").end(),
            |r| assert_eq!(text(r, "f"), "x"),
        ),
        refused("long link to the outside of a hard link", {
            Tar::new().file("f", "x").extension(b'K', b"../../evil\0").hardlink("h", "f").end()
        }),
        refused("size that is smaller than the data", {
            Tar::new().pax(&[("size", b"1")]).file("f", &"x".repeat(1024)).end()
        }),
        contained(
            "size that takes the next entries as data",
            {
                let swallowed = Tar::new().file("../evil", "x");
                Tar::new()
                    .pax(&[("size", swallowed.0.len().to_string().as_bytes())])
                    .file("f", "")
                    .raw(&swallowed.0)
                    .file("g", "y")
                    .end()
            },
            |r| {
                assert_eq!(
                    (text(r, "g"), std::fs::read_dir(r).expect("list").count()),
                    ("y".into(), 2)
                )
            },
        ),
        refused(
            "negative size in a record",
            Tar::new().pax(&[("size", b"-1")]).file("f", "x").end(),
        ),
        refused("size with a fraction", Tar::new().pax(&[("size", b"1.0")]).file("f", "x").end()),
        refused("size in hexadecimal", Tar::new().pax(&[("size", b"0x1")]).file("f", "x").end()),
        refused("negative uid", Tar::new().pax(&[("uid", b"-1")]).file("f", "x").end()),
        refused("uid that means no change", {
            Tar::new().pax(&[("uid", b"4294967295")]).file("f", "x").end()
        }),
        refused("gid of 2^32", Tar::new().pax(&[("gid", b"4294967296")]).file("f", "x").end()),
        refused("time that is no number", Tar::new().pax(&[("mtime", b"now")]).file("f", "").end()),
        refused("time with an exponent", Tar::new().pax(&[("mtime", b"1e9")]).file("f", "").end()),
        refused("time of 2^63", {
            Tar::new().pax(&[("mtime", b"9223372036854775808")]).file("f", "").end()
        }),
        contained(
            "time before 1970 with a fraction",
            Tar::new().pax(&[("mtime", b"-1.25")]).file("f", "").end(),
            |r| {
                let meta = r.join("f").symlink_metadata().expect("f");
                assert_eq!((meta.mtime(), meta.mtime_nsec()), (-2, 750_000_000));
            },
        ),
        contained(
            "time with a thousand digits",
            {
                let digits = ["1700000000.", &"9".repeat(1000)].concat();
                Tar::new().pax(&[("mtime", digits.as_bytes())]).file("f", "").dir("d/").end()
            },
            |r| assert_eq!(r.join("f").symlink_metadata().expect("f").mtime_nsec(), 999_999_999),
        ),
        refused("bad record behind a good name", {
            Tar::new().pax(&[("path", b"told"), ("uid", b"x")]).file("f", "").end()
        }),
    ]
}
