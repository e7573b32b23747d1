//! Names of entries: where they point to, and bytes that nobody expects in one.

use super::*;

pub(super) fn cases(canary: &str) -> Vec<Case> {
    let nested = "a/".repeat(100) + &"../".repeat(101) + "x";
    vec![
        refused("dot-dot file", Tar::new().file("../evil", "x").end()),
        refused("dot-dot directory", Tar::new().dir("../evil/").end()),
        refused("dot-dot inside", Tar::new().file("a/../../evil", "x").end()),
        refused("dot-dot at the end", Tar::new().dir("a/../..").end()),
        refused("absolute dot-dot", Tar::new().file("/../evil", "x").end()),
        refused("dot-dot behind dots", Tar::new().file("./.././evil", "x").end()),
        refused(
            "dot-dot after many levels",
            Tar::new().pax(&[("path", nested.as_bytes())]).file("x", "").end(),
        ),
        refused("dot-dot symlink", Tar::new().symlink("../evil", "x").end()),
        refused("dot-dot fifo", Tar::new().device("../evil", b'6', (0, 0), 0o644).end()),
        refused("dot-dot hard link", Tar::new().file("a", "x").hardlink("../evil", "a").end()),
        refused(
            "dot-dot in pax path",
            Tar::new().pax(&[("path", b"../evil")]).file("ok", "x").end(),
        ),
        refused(
            "dot-dot in GNU long name",
            Tar::new().extension(b'L', b"../evil\0").file("ok", "x").end(),
        ),
        refused(
            "dot-dot in sparse name",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.major", b"0"),
                    ("GNU.sparse.minor", b"1"),
                    ("GNU.sparse.name", b"../evil"),
                    ("GNU.sparse.realsize", b"1"),
                    ("GNU.sparse.map", b"0,1"),
                ])
                .file("ok", "x")
                .end(),
        ),
        refused("dot-dot by ustar prefix", {
            let mut tar = Tar::new().file("../evil", "x");
            tar.0[345..347].copy_from_slice(b"..");
            common::sum(&mut tar.0[..512]);
            tar.end()
        }),
        contained(
            "dot-dot that stays inside",
            Tar::new().dir("a/").file("a/../b", "x").end(),
            |r| {
                assert_eq!(text(r, "b"), "x");
            },
        ),
        contained("absolute path", Tar::new().file("/etc/evil", "x").end(), |r| {
            assert_eq!(text(r, "etc/evil"), "x");
        }),
        contained(
            "absolute path of the canary",
            Tar::new().file(&format!("{canary}/evil"), "x").end(),
            |r| {
                assert_eq!(census(r).iter().filter(|line| line.contains("/evil ")).count(), 1);
            },
        ),
        contained("many slashes", Tar::new().file("//etc///evil", "x").end(), |r| {
            assert_eq!(text(r, "etc/evil"), "x");
        }),
        refused("NUL in a pax path", Tar::new().pax(&[("path", b"a\0b")]).file("ok", "").end()),
        refused(
            "NUL in a pax link",
            Tar::new().pax(&[("linkpath", b"a\0b")]).symlink("l", "x").end(),
        ),
        refused("name of 256 bytes", Tar::new().pax(&[("path", &[b'n'; 256])]).file("x", "").end()),
        refused(
            "path of 5000 bytes",
            Tar::new().pax(&[("path", "d/".repeat(2500).as_bytes())]).dir("x/").end(),
        ),
        refused(
            "file in place of the root",
            Tar::new().file("./", "").head(&Head { path: b".", ..Head::default() }).end(),
        ),
        contained(
            "names that differ by case or by normal form",
            Tar::new()
                .file("File", "1")
                .file("file", "2")
                .file("e\u{301}", "3")
                .file("\u{e9}", "4")
                .end(),
            |r| {
                assert_eq!((text(r, "File"), text(r, "file")), ("1".into(), "2".into()));
                assert_eq!((text(r, "e\u{301}"), text(r, "\u{e9}")), ("3".into(), "4".into()));
            },
        ),
        contained(
            "bytes that are no UTF-8",
            Tar::new().head(&Head { path: b"\xff\xfe", ..Head::default() }).end(),
            |r| {
                assert_eq!(std::fs::read_dir(r).expect("list").count(), 1);
            },
        ),
        contained("backslashes", Tar::new().file("..\\..\\evil", "x").end(), |r| {
            assert_eq!(text(r, "..\\..\\evil"), "x");
        }),
        contained(
            "names that look like options",
            Tar::new().file("-rf", "").file("--help", "").end(),
            |r| {
                assert!(exists(r, "-rf") && exists(r, "--help"));
            },
        ),
        contained("newline in a name", Tar::new().file("a\nb", "").end(), |r| {
            assert!(exists(r, "a\nb"))
        }),
        refused(
            "dot-dot behind a colon of dots",
            Tar::new().file("a/b/.././../../evil", "x").end(),
        ),
        refused("dot-dot behind bytes that are no UTF-8", {
            Tar::new().head(&Head { path: b"\xff/../../evil", ..Head::default() }).end()
        }),
        refused("terminal codes in a name that is refused", {
            Tar::new().file("../\x1b[2J\revil", "x").end()
        }),
        refused("terminal codes in the way", {
            Tar::new().file("\x1b[2J", "x").file("\x1b[2J/g", "x").end()
        }),
        contained(
            "other spellings of dot-dot are names",
            {
                Tar::new()
                    .file("%2e%2e/evil", "1")
                    .file("\u{2024}\u{2024}/evil", "2")
                    .file("\u{ff0e}\u{ff0e}/evil", "3")
                    .file(".../evil", "4")
                    .file(".. /evil", "5")
                    .file("..\n/evil", "6")
                    .head(&Head { path: b"\xc0\xae\xc0\xae/evil", ..Head::default() })
                    .end()
            },
            |r| {
                assert_eq!(std::fs::read_dir(r).expect("list").count(), 7);
                assert_eq!(text(r, "%2e%2e/evil") + &text(r, ".../evil"), "14");
            },
        ),
        contained(
            "name of 255 bytes",
            Tar::new().pax(&[("path", &[b'n'; 255])]).file("x", "y").end(),
            |r| assert_eq!(text(r, &"n".repeat(255)), "y"),
        ),
        refused("directory name of 256 bytes on the way", {
            Tar::new()
                .pax(&[("path", ["n".repeat(256), "f".into()].join("/").as_bytes())])
                .file("x", "y")
                .end()
        }),
        refused("path of 1 MiB", {
            Tar::new().pax(&[("path", "d/".repeat(500_000).as_bytes())]).file("x", "").end()
        }),
        contained(
            "2,000 levels",
            {
                Tar::new()
                    .pax(&[("path", ("d/".repeat(2000) + "f").as_bytes())])
                    .file("x", "y")
                    .end()
            },
            |r| assert_eq!(text(r, &("d/".repeat(2000) + "f")), "y"),
        ),
        contained(
            "deeper than a path can be",
            {
                let long = [&"n".repeat(200)[..]; 15].join("/");
                let hop = |tar: Tar, from: &str, to: &str| {
                    let target =
                        if from.is_empty() { long.clone() } else { format!("{from}/{long}") };
                    tar.pax(&[("path", target.as_bytes())])
                        .dir("x/")
                        .pax(&[("linkpath", target.as_bytes())])
                        .symlink(to, "x")
                };
                hop(hop(hop(Tar::new(), "", "one"), "one", "two"), "two", "three")
                    .file("three/f", "x")
                    .end()
            },
            |r| assert_eq!(text(r, "three/f"), "x"),
        ),
        contained(
            "control characters and quotes in names",
            {
                Tar::new()
                    .file("\x07\x1b]0;evil\x07", "")
                    .file("\u{202e}gnp.exe", "")
                    .file("'\"$(x)", "")
                    .end()
            },
            |r| assert_eq!(std::fs::read_dir(r).expect("list").count(), 3),
        ),
        refused("file without a name", Tar::new().file("", "x").end()),
        contained("directory without a name", Tar::new().dir("").file("f", "x").end(), |r| {
            assert_eq!(text(r, "f"), "x");
        }),
        refused(
            "symlink in place of the root",
            Tar::new().symlink("./", canary).file("evil", "").end(),
        ),
        refused(
            "hard link in place of the root",
            Tar::new().file("f", "").hardlink(".", "f").end(),
        ),
        refused("device in place of the root", Tar::new().device("/", b'4', (8, 0), 0o666).end()),
        refused(
            "fifo in place of the root by dots",
            Tar::new().device("a/..", b'6', (0, 0), 0o666).end(),
        ),
        case(
            "mode, owner and group of the root",
            {
                Tar::new()
                    .head(&Head {
                        path: b"./",
                        kind: b'5',
                        mode: 0o2700,
                        uid: 7,
                        gid: 5,
                        ..Head::default()
                    })
                    .file("f", "x")
                    .dir("d/")
                    .end()
            },
            Contained(|r| {
                assert_eq!(mode(r, "."), 0o2700);
                // Neither the group nor the bit is passed on to what the archive describes itself.
                assert_eq!((mode(r, "d"), mode(r, "f")), (0o755, 0o644));
                assert_eq!(r.join("f").symlink_metadata().expect("f").gid(), 0);
            }),
            Contained(|r| assert_eq!(mode(r, "."), 0o755)),
        ),
        case(
            "root without any permission",
            {
                Tar::new()
                    .head(&Head { path: b"./", kind: b'5', mode: 0, ..Head::default() })
                    .file("f", "x")
                    .end()
            },
            Contained(|r| assert_eq!((mode(r, "."), text(r, "f")), (0, "x".into()))),
            Contained(|r| assert_eq!(mode(r, "."), 0o755)),
        ),
    ]
}
