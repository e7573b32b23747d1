//! What means something to overlayfs: whiteouts, opaque marks and devices 0:0.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let plain = |name, tar, layer| case(name, tar, layer, Contained(|_| {}));
    vec![
        plain("whiteout of dot-dot", Tar::new().file(".wh...", "").end(), Refused),
        plain("whiteout of dot", Tar::new().file("d/.wh..", "").end(), Refused),
        plain("whiteout of nothing", Tar::new().file(".wh.", "").end(), Refused),
        plain("whiteout as a parent", Tar::new().file(".wh.d/f", "x").end(), Refused),
        plain(
            "opaque mark at the root",
            Tar::new().file(".wh..wh..opq", "").file("f", "").end(),
            Contained(|r| {
                assert!(exists(r, "f") && !exists(r, ".wh..wh..opq"));
            }),
        ),
        plain(
            "opaque mark below a symlink",
            Tar::new().dir("d/").symlink("l", "/d").file("l/.wh..wh..opq", "").end(),
            Contained(|r| {
                assert!(xattr(&r.join("d"), "trusted.overlay.opaque"));
            }),
        ),
        refused(
            "whiteout below a symlink that leads out",
            Tar::new().symlink("l", "../canary").file("l/.wh.secret", "").end(),
        ),
        plain(
            "whiteout of what the layer brings",
            Tar::new().file("f", "x").file(".wh.f", "").end(),
            Contained(|r| {
                assert_eq!(text(r, "f"), "x");
            }),
        ),
        plain(
            "whiteout, then a directory of that name",
            Tar::new().file(".wh.d", "").dir("d/").end(),
            Contained(|r| {
                assert!(xattr(&r.join("d"), "trusted.overlay.opaque"));
            }),
        ),
        plain(
            "aufs bookkeeping",
            Tar::new().file(".wh..wh.plnk/1", "x").file(".wh..wh.aufs", "x").end(),
            Contained(|r| {
                assert_eq!(std::fs::read_dir(r).expect("list").count(), 0);
            }),
        ),
        contained(
            "device 0:0 is overlay's whiteout",
            Tar::new().device("gone", b'3', (0, 0), 0).end(),
            |r| {
                assert!(exists(r, "gone"));
            },
        ),
        contained(
            "set-id device node",
            Tar::new().device("sda", b'4', (8, 0), 0o6777).end(),
            |r| {
                assert!(exists(r, "sda"));
            },
        ),
        plain("whiteout of a path", Tar::new().file(".wh.d/.wh.f", "").end(), Refused),
        plain(
            "whiteout of nothing as a directory",
            Tar::new().dir(".wh./").file(".wh./f", "").end(),
            Refused,
        ),
        plain(
            "whiteout of dot-dot through a directory",
            Tar::new().file("d/.wh...", "").end(),
            Refused,
        ),
        refused("whiteout above the root", Tar::new().file("../.wh.canary", "").end()),
        refused("opaque mark above the root", Tar::new().file("../.wh..wh..opq", "").end()),
        plain(
            "whiteout below a whiteout",
            Tar::new().file(".wh.d", "").file("d/.wh.f", "").end(),
            Refused,
        ),
        plain("whiteout below a file", Tar::new().file("d", "").file("d/.wh.f", "").end(), Refused)
            .put_refuses(),
        plain(
            "whiteouts of every type",
            {
                Tar::new()
                    .symlink(".wh.a", "/etc/passwd")
                    .dir(".wh.b/")
                    .device(".wh.c", b'4', (8, 0), 0o666)
                    .file(".wh.d", "content")
                    .file("f", "x")
                    .hardlink(".wh.e", "f")
                    .end()
            },
            Contained(|r| {
                for name in ["a", "b", "c", "d", "e"] {
                    assert!(is_whiteout(r, name), "{name}");
                    assert!(!exists(r, &format!(".wh.{name}")), "{name}");
                }
            }),
        ),
        plain(
            "opaque marks of every type",
            {
                Tar::new()
                    .symlink("a/.wh..wh..opq", "/etc/passwd")
                    .dir("b/.wh..wh..opq/")
                    .device("c/.wh..wh..opq", b'3', (0, 0), 0)
                    .file("d/.wh..wh..opq", "content")
                    .end()
            },
            Contained(|r| {
                for name in ["a", "b", "c", "d"] {
                    assert!(xattr(&r.join(name), "trusted.overlay.opaque"), "{name}");
                    assert_eq!(std::fs::read_dir(r.join(name)).expect("list").count(), 0, "{name}");
                }
            }),
        ),
        plain("file in an opaque mark", Tar::new().file("d/.wh..wh..opq/f", "x").end(), Refused),
        plain(
            "opaque mark behind the content",
            {
                Tar::new()
                    .file("d/f", "x")
                    .file("d/.wh..wh..opq", "")
                    .file("d/.wh..wh..opq", "")
                    .end()
            },
            Contained(|r| {
                assert_eq!(text(r, "d/f"), "x");
                assert!(xattr(&r.join("d"), "trusted.overlay.opaque"));
            }),
        ),
        plain(
            "opaque mark below a link that leads out",
            Tar::new().symlink("l", "../canary").file("l/.wh..wh..opq", "").end(),
            Refused,
        )
        .put_refuses(),
        plain(
            "opaque mark where a file is",
            Tar::new().file("d", "").file("d/.wh..wh..opq", "").end(),
            Refused,
        )
        .put_refuses(),
        plain(
            "whiteout, then a file of that name",
            Tar::new().file(".wh.f", "").file("f", "x").end(),
            Contained(|r| assert_eq!(text(r, "f"), "x")),
        ),
        plain(
            "whiteout twice",
            Tar::new().file(".wh.f", "").file(".wh.f", "").end(),
            Contained(|r| assert!(is_whiteout(r, "f"))),
        ),
        plain(
            "whiteout of a link",
            Tar::new().symlink("l", "/etc").file(".wh.l", "").end(),
            Contained(|r| assert!(r.join("l").is_symlink())),
        ),
        plain(
            "whiteout of the longest name",
            {
                Tar::new()
                    .pax(&[("path", [&b".wh."[..], &[b'n'; 251]].concat().as_slice())])
                    .file("x", "")
                    .end()
            },
            Contained(|r| assert!(is_whiteout(r, &"n".repeat(251)))),
        ),
        plain(
            "hard link to a whiteout's own name",
            Tar::new().file(".wh.f", "").hardlink("h", ".wh.f").end(),
            Refused,
        ),
        contained(
            "device 0:0 with mode and owner",
            {
                Tar::new()
                    .head(&Head { path: b"w", kind: b'3', mode: 0o6777, uid: 7, ..Head::default() })
                    .end()
            },
            |r| assert!(is_whiteout(r, "w")),
        ),
        plain(
            "device 0:0, then a directory of that name",
            Tar::new().device("d", b'3', (0, 0), 0).dir("d/").file("d/f", "x").end(),
            Contained(|r| {
                assert_eq!(text(r, "d/f"), "x");
                assert!(xattr(&r.join("d"), "trusted.overlay.opaque"), "what it hid stays hidden");
            }),
        ),
        plain(
            "directory in place of a file hides what the file hid",
            Tar::new().file("d", "").dir("d/").symlink("l", "/").dir("l/").end(),
            Contained(|r| {
                for name in ["d", "l"] {
                    assert!(xattr(&r.join(name), "trusted.overlay.opaque"), "{name}");
                }
            }),
        ),
        plain(
            "opaque directory, file, directory",
            Tar::new().file("d/.wh..wh..opq", "").file("d", "").dir("d/").file("d/f", "x").end(),
            Contained(|r| assert!(xattr(&r.join("d"), "trusted.overlay.opaque"))),
        ),
        contained(
            "block device 0:0 is no whiteout",
            Tar::new().device("b", b'4', (0, 0), 0o600).end(),
            |r| assert!(exists(r, "b") && !is_whiteout(r, "b")),
        ),
    ]
}

impl Case {
    /// As a `cp` archive it is refused for another reason: what it means is no directory.
    fn put_refuses(mut self) -> Self {
        self.put = Refused;
        self
    }
}
