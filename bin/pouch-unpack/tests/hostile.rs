//! SEC-27: archives that try to leave the root, to steer overlayfs, or to exhaust the reader. Each
//! is unpacked as a layer and as a `cp` archive, and nothing outside the root may change.
#![expect(clippy::expect_used, reason = "a failed set-up is a failed test")]

mod common;

use std::path::Path;

use common::{Head, Rig, Tar, census, failure_kind, is_root};

/// What must come of an archive.
enum Want {
    /// Refused, with this kind.
    Refused(&'static str),
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

fn case(name: &'static str, tar: Vec<u8>, layer: Want, put: Want) -> Case {
    Case { name, tar, layer, put }
}

fn refused(name: &'static str, tar: Vec<u8>) -> Case {
    case(name, tar, Refused("invalid"), Refused("invalid"))
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

fn xattr(path: &Path, name: &str) -> bool {
    let mut value = [0u8; 64];
    rustix::fs::lgetxattr(path, name, &mut value[..]).is_ok()
}

/// `canary` is the path of the directory that must not change.
fn names(canary: &str) -> Vec<Case> {
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
        )
        .only_layer(Contained(|_| {})),
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
    ]
}

impl Case {
    fn only_layer(mut self, put: Want) -> Self {
        self.put = put;
        self
    }
}

fn links(canary: &str) -> Vec<Case> {
    let climb = "../".repeat(40) + canary.trim_start_matches('/');
    let (abs, climb) = (canary, climb.as_str());
    vec![
        refused(
            "symlink out, then a file through it",
            Tar::new().symlink("l", abs).file("l/evil", "x").end(),
        )
        .conflict(),
        refused(
            "climbing symlink, then a file through it",
            Tar::new()
                .pax(&[("linkpath", climb.as_bytes())])
                .symlink("l", "")
                .file("l/evil", "x")
                .end(),
        )
        .conflict(),
        refused(
            "symlink out, then a directory through it",
            Tar::new().symlink("l", abs).dir("l/evil/").end(),
        )
        .conflict(),
        refused(
            "two symlinks that lead out together",
            Tar::new()
                .symlink("a", "..")
                .symlink("b", &format!("a{abs}"))
                .file("b/evil", "x")
                .end(),
        )
        .conflict(),
        contained(
            "symlink to the root above",
            Tar::new().symlink("up", "../../../..").file("up/f", "x").end(),
            |r| {
                assert_eq!(text(r, "f"), "x");
            },
        ),
        contained(
            "symlink inside the root is followed",
            Tar::new().dir("real/").symlink("l", "/real").file("l/f", "x").end(),
            |r| {
                assert_eq!(text(r, "real/f"), "x");
            },
        ),
        contained(
            "file over a symlink replaces it",
            Tar::new().symlink("l", &format!("{abs}/secret")).file("l", "mine").end(),
            |r| {
                assert_eq!(text(r, "l"), "mine");
                assert!(!r.join("l").is_symlink());
            },
        ),
        contained(
            "directory over a symlink replaces it",
            Tar::new().symlink("l", abs).dir("l/").file("l/f", "x").end(),
            |r| {
                assert!(!r.join("l").is_symlink());
                assert_eq!(text(r, "l/f"), "x");
            },
        ),
        contained(
            "mode of a directory over a symlink",
            Tar::new()
                .symlink("l", &format!("{abs}/d"))
                .head(&Head { path: b"l/", kind: b'5', mode: 0o777, uid: 99, ..Head::default() })
                .end(),
            |r| {
                assert!(!r.join("l").is_symlink());
            },
        ),
        contained(
            "fifo over a symlink",
            Tar::new()
                .symlink("l", &format!("{abs}/secret"))
                .device("l", b'6', (0, 0), 0o777)
                .end(),
            |r| {
                assert!(!r.join("l").is_symlink());
            },
        ),
        contained(
            "symlink over a directory with content",
            Tar::new().dir("d/").file("d/f", "x").symlink("d", abs).end(),
            |r| {
                assert!(r.join("d").is_symlink());
            },
        ),
        refused(
            "directory, symlink in its place, file through it",
            Tar::new().dir("d/").file("d/f", "x").symlink("d", abs).file("d/evil", "x").end(),
        )
        .conflict(),
        contained(
            "owner and time of a symlink",
            Tar::new()
                .head(&Head {
                    path: b"l",
                    kind: b'2',
                    link: format!("{abs}/secret").as_bytes(),
                    mode: 0o4777,
                    uid: 12345,
                    ..Head::default()
                })
                .end(),
            |r| {
                use std::os::unix::fs::MetadataExt;
                assert_eq!(r.join("l").symlink_metadata().expect("stat").uid(), 12345);
            },
        ),
        refused(
            "hard link to the outside",
            Tar::new().hardlink("h", &format!("{abs}/secret")).end(),
        ),
        refused("hard link climbing out", Tar::new().hardlink("h", "../canary/secret").end()),
        refused(
            "hard link climbing out by pax",
            Tar::new().pax(&[("linkpath", b"../canary/secret")]).hardlink("h", "x").end(),
        ),
        refused(
            "hard link climbing out by GNU long link",
            Tar::new().extension(b'K', b"../canary/secret\0").hardlink("h", "x").end(),
        ),
        refused(
            "hard link through a symlink that leads out",
            Tar::new().symlink("l", abs).hardlink("h", "l/secret").end(),
        ),
        contained(
            "hard link to a symlink, then a file over it",
            Tar::new()
                .symlink("l", &format!("{abs}/secret"))
                .hardlink("h", "l")
                .file("h", "mine")
                .end(),
            |r| {
                assert_eq!(text(r, "h"), "mine");
                assert!(r.join("l").is_symlink());
            },
        ),
        contained(
            "hard link to a symlink does not follow",
            Tar::new().symlink("l", &format!("{abs}/secret")).hardlink("h", "l").end(),
            |r| {
                assert!(r.join("h").is_symlink());
            },
        ),
        refused("hard link to a directory", Tar::new().dir("d/").hardlink("h", "d").end()),
        refused("hard link to the root", Tar::new().hardlink("h", "/").end()),
        refused("hard link to nothing", Tar::new().hardlink("h", "none").end()),
        contained("hard link to itself", Tar::new().file("f", "x").hardlink("f", "f").end(), |r| {
            assert_eq!(text(r, "f"), "x");
        }),
        refused(
            "symlink loop as a parent",
            Tar::new().symlink("a", "b").symlink("b", "a").file("a/f", "x").end(),
        )
        .conflict(),
        refused(
            "symlink to itself as a parent",
            Tar::new().symlink("s", "s/s").file("s/f", "x").end(),
        )
        .conflict(),
        contained(
            "symlink to /proc/self/root",
            Tar::new().symlink("p", "/proc/self/root").end(),
            |r| {
                assert!(r.join("p").is_symlink());
            },
        ),
        refused(
            "file through /proc/self/root",
            Tar::new().symlink("p", "/proc/self/root").file("p/evil", "x").end(),
        )
        .conflict(),
        refused(
            "file through /proc/self/fd",
            Tar::new().symlink("p", "/proc/self/fd/3").file("p/evil", "x").end(),
        )
        .conflict(),
        refused("empty symlink target", Tar::new().symlink("l", "").end()),
        refused(
            "symlink target of 5000 bytes",
            Tar::new().pax(&[("linkpath", &[b't'; 5000])]).symlink("l", "").end(),
        ),
        refused("file where a parent is needed", Tar::new().file("f", "x").file("f/g", "x").end()),
        refused(
            "device where a parent is needed",
            Tar::new().device("f", b'3', (1, 3), 0o666).file("f/g", "x").end(),
        ),
    ]
}

impl Case {
    /// A parent that cannot be made because something is in its way.
    fn conflict(mut self) -> Self {
        for want in [&mut self.layer, &mut self.put] {
            *want = Refused("conflict|invalid");
        }
        self
    }
}

fn overlay() -> Vec<Case> {
    let plain = |name, tar, layer| case(name, tar, layer, Contained(|_| {}));
    vec![
        plain("whiteout of dot-dot", Tar::new().file(".wh...", "").end(), Refused("invalid")),
        plain("whiteout of dot", Tar::new().file("d/.wh..", "").end(), Refused("invalid")),
        plain("whiteout of nothing", Tar::new().file(".wh.", "").end(), Refused("invalid")),
        plain("whiteout as a parent", Tar::new().file(".wh.d/f", "x").end(), Refused("invalid")),
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
        )
        .kind("conflict"),
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
            "overlay attributes",
            Tar::new()
                .pax(&[
                    ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                    ("SCHILY.xattr.trusted.overlay.metacopy", b""),
                    ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
                    ("SCHILY.xattr.user.kept", b"1"),
                ])
                .dir("d/")
                .end(),
            |r| {
                let d = r.join("d");
                for dropped in [
                    "trusted.overlay.redirect",
                    "trusted.overlay.opaque",
                    "trusted.overlay.metacopy",
                    "user.overlay.redirect",
                ] {
                    assert!(!xattr(&d, dropped), "{dropped}");
                }
                assert!(xattr(&d, "user.kept"));
            },
        ),
        contained(
            "security attributes of the host",
            Tar::new()
                .pax(&[
                    ("SCHILY.xattr.security.selinux", b"evil"),
                    ("SCHILY.xattr.security.ima", b"evil"),
                    ("SCHILY.xattr.security.evm", b"evil"),
                ])
                .file("f", "x")
                .end(),
            |r| {
                for dropped in ["security.selinux", "security.ima", "security.evm"] {
                    assert!(!xattr(&r.join("f"), dropped), "{dropped}");
                }
            },
        ),
        refused(
            "attribute without a name",
            Tar::new().pax(&[("SCHILY.xattr.", b"x")]).file("f", "").end(),
        ),
        contained(
            "nonsense in an access list",
            Tar::new()
                .pax(&[("SCHILY.xattr.system.posix_acl_access", b"nonsense")])
                .file("f", "x")
                .end(),
            |r| {
                assert_eq!(text(r, "f"), "x");
            },
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
    ]
}

fn numbers() -> Vec<Case> {
    let broken = |name, change: fn(&mut [u8])| {
        let mut tar = Tar::new().file("f", "x");
        change(&mut tar.0[..512]);
        common::sum(&mut tar.0[..512]);
        refused(name, tar.end())
    };
    let mut bad_sum = Tar::new().file("f", "x");
    bad_sum.0[0] = b'g';
    let cut = |bytes: Vec<u8>, at: usize| bytes[..at].to_vec();
    let gnu_sparse = |map: &[(u64, u64)], real: u64, data: &[u8]| {
        let mut tar = Tar::new().head(&Head {
            path: b"s",
            kind: b'S',
            size: data.len() as u64,
            ..Head::default()
        });
        tar.0[257..265].copy_from_slice(b"ustar  \0");
        for (n, (offset, length)) in map.iter().enumerate() {
            let at = 386 + n * 24;
            tar.0[at..at + 11].copy_from_slice(format!("{offset:011o}").as_bytes());
            tar.0[at + 12..at + 23].copy_from_slice(format!("{length:011o}").as_bytes());
        }
        tar.0[483..494].copy_from_slice(format!("{real:011o}").as_bytes());
        common::sum(&mut tar.0[..512]);
        tar.data(data).end()
    };
    let sparse_1_0 = |map: &[u8], real: &[u8]| {
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
    };
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
        )
        .kind("resource_exhausted"),
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
        refused("sparse map that overlaps", gnu_sparse(&[(0, 2), (1, 1)], 10, b"abc")),
        refused("sparse map beyond the end", gnu_sparse(&[(8, 3)], 10, b"abc")),
        refused("sparse map that holds other bytes", gnu_sparse(&[(0, 2)], 10, b"abc")),
        refused("sparse file of 8 EiB", sparse_1_0(b"1\n0\n3\n", b"9223372036854775807"))
            .kind("resource_exhausted"),
        refused("sparse map with a huge count", sparse_1_0(b"99999999\n0\n3\n", b"10")),
        refused("sparse map without an end", sparse_1_0(&[b'1'; 512], b"10")),
        refused("sparse map of letters", sparse_1_0(b"one\n", b"10")),
        refused(
            "sparse records in disorder",
            Tar::new()
                .pax(&[("GNU.sparse.numbytes", b"1"), ("GNU.sparse.offset", b"0")])
                .file("f", "x")
                .end(),
        ),
        contained("sparse file", gnu_sparse(&[(0, 1), (9, 2)], 11, b"abc"), |r| {
            assert_eq!(text(r, "s"), "a\0\0\0\0\0\0\0\0bc");
        }),
        contained("sparse file, map in the data", sparse_1_0(b"1\n7\n3\n", b"12"), |r| {
            assert_eq!(text(r, "s"), "\0\0\0\0\0\0\0abc\0\0");
        }),
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
        refused("cut gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]),
        refused("cut zstd", vec![0x28, 0xb5, 0x2f, 0xfd, 0, 1, 2, 3]),
        refused("cut xz", vec![0xfd, b'7', b'z', b'X', b'Z', 0, 0, 4]),
        refused("cut bzip2", b"BZh91AY&SY".to_vec()),
    ]
}

impl Case {
    fn kind(mut self, kind: &'static str) -> Self {
        self.layer = Refused(kind);
        self.put = Refused(kind);
        self
    }
}

fn judge(name: &str, output: &std::process::Output, want: &Want, root: &Path) {
    match (failure_kind(output), want) {
        (None, Contained(check)) => check(root),
        (Some(kind), Refused(kinds)) => {
            assert!(kinds.split('|').any(|want| want == kind), "{name}: {kind}: {output:?}");
        }
        (None, Refused(_)) => panic!("{name}: accepted: {:#?}", census(root)),
        (Some(_), Contained(_)) => panic!("{name}: {output:?}"),
    }
}

#[test]
fn every_archive_is_refused_or_contained() {
    if !is_root() {
        return;
    }
    let cases = |canary: &str| [names(canary), links(canary), overlay(), numbers()].concat_all();
    let count = cases("/nowhere").len();
    assert!(count >= 100, "only {count} archives");
    let mut failed = 0;
    for n in 0..count {
        for verb in ["layer", "put"] {
            let rig = Rig::new();
            let canary = rig.canary();
            let case = cases(canary.to_str().expect("UTF-8")).swap_remove(n);
            let before = census(&canary);
            let (output, want) = match verb {
                "layer" => (rig.layer(&case.tar), &case.layer),
                _ => (rig.put(&case.tar), &case.put),
            };
            let name = format!("{} ({verb})", case.name);
            assert_eq!(census(&canary), before, "{name}");
            assert_eq!(std::fs::read_dir(rig.dir.path()).expect("list").count(), 2, "{name}");
            let judged = std::panic::AssertUnwindSafe(|| judge(&name, &output, want, &rig.root));
            failed += u32::from(std::panic::catch_unwind(judged).is_err());
        }
    }
    assert_eq!(failed, 0, "archives that were not handled as they must");
    println!("{count} archives, each as layer and as cp archive");
}

trait ConcatAll {
    fn concat_all(self) -> Vec<Case>;
}

impl<const N: usize> ConcatAll for [Vec<Case>; N] {
    fn concat_all(self) -> Vec<Case> {
        self.into_iter().flatten().collect()
    }
}
