//! Links: where they lead, what is written through them, and what takes their place.

use super::*;

pub(super) fn cases(canary: &str) -> Vec<Case> {
    let climb = "../".repeat(40) + canary.trim_start_matches('/');
    let (abs, climb) = (canary, climb.as_str());
    vec![
        refused(
            "symlink out, then a file through it",
            Tar::new().symlink("l", abs).file("l/evil", "x").end(),
        ),
        refused(
            "climbing symlink, then a file through it",
            Tar::new()
                .pax(&[("linkpath", climb.as_bytes())])
                .symlink("l", "")
                .file("l/evil", "x")
                .end(),
        ),
        refused(
            "symlink out, then a directory through it",
            Tar::new().symlink("l", abs).dir("l/evil/").end(),
        ),
        refused(
            "two symlinks that lead out together",
            Tar::new()
                .symlink("a", "..")
                .symlink("b", &format!("a{abs}"))
                .file("b/evil", "x")
                .end(),
        ),
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
        ),
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
        ),
        refused(
            "symlink to itself as a parent",
            Tar::new().symlink("s", "s/s").file("s/f", "x").end(),
        ),
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
        ),
        refused(
            "file through /proc/self/fd",
            Tar::new().symlink("p", "/proc/self/fd/3").file("p/evil", "x").end(),
        ),
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
        refused(
            "three links in a row that end outside",
            Tar::new()
                .symlink("a", "b")
                .symlink("b", "c")
                .symlink("c", abs)
                .file("a/evil", "x")
                .end(),
        ),
        refused(
            "link out from deep below",
            Tar::new()
                .dir("a/b/c/")
                .pax(&[("linkpath", climb.as_bytes())])
                .symlink("a/b/c/l", "")
                .file("a/b/c/l/evil", "x")
                .end(),
        ),
        refused("link out with dots on the way", {
            Tar::new().symlink("l", &format!("/.././{abs}/d/..")).file("./l/./evil", "x").end()
        }),
        refused(
            "two levels up swapped for a link",
            Tar::new().file("d/e/f", "x").symlink("d", abs).file("d/e/g", "x").end(),
        ),
        refused(
            "link whose target has the same names as the tree",
            Tar::new().file("l/d/f", "x").symlink("l", abs).file("l/d/evil", "x").end(),
        ),
        refused("device through a link out", {
            Tar::new().symlink("l", abs).device("l/evil", b'3', (1, 3), 0o666).end()
        }),
        refused("link through a link out", {
            Tar::new().symlink("l", abs).symlink("l/evil", "/etc").end()
        }),
        refused("hard link placed through a link out", {
            Tar::new().file("f", "x").symlink("l", abs).hardlink("l/evil", "f").end()
        }),
        refused("hard link to what a swapped directory held", {
            Tar::new().file("d/secret", "x").symlink("d", abs).hardlink("h", "d/secret").end()
        }),
        refused("hard link to /proc/self/exe", Tar::new().hardlink("h", "/proc/self/exe").end()),
        refused("hard link through /proc/self/root", {
            Tar::new()
                .symlink("p", "/proc/self/root")
                .hardlink("h", &format!("p{abs}/secret"))
                .end()
        }),
        refused("hard link to what comes later", {
            Tar::new().hardlink("h", "f").file("f", "x").end()
        }),
        refused("hard link without a target", Tar::new().hardlink("h", "").end()),
        case(
            "hard link to what a whiteout removed",
            Tar::new().file(".wh.f", "").hardlink("h", "f").end(),
            Refused,
            Refused,
        ),
        refused("hard link to a mark", Tar::new().file("d/.wh.f", "").hardlink("h", "d/f").end()),
        contained(
            "hard link to a fifo and to a device",
            {
                Tar::new()
                    .device("p", b'6', (0, 0), 0o600)
                    .device("n", b'3', (1, 3), 0o600)
                    .hardlink("hp", "p")
                    .hardlink("hn", "n")
                    .end()
            },
            |r| {
                let ino = |path: &str| r.join(path).symlink_metadata().expect(path).ino();
                assert_eq!((ino("p"), ino("n")), (ino("hp"), ino("hn")));
            },
        ),
        contained(
            "set-id bits come by no hard link",
            {
                Tar::new()
                    .file("f", "x")
                    .head(&Head {
                        path: b"h",
                        kind: b'1',
                        link: b"f",
                        mode: 0o6777,
                        uid: 7,
                        ..Head::default()
                    })
                    .end()
            },
            |r| {
                assert_eq!(mode(r, "f"), 0o644);
                assert_eq!(r.join("f").symlink_metadata().expect("f").uid(), 0);
            },
        ),
        contained(
            "file over one of two names",
            Tar::new().file("f", "old").hardlink("h", "f").file("f", "new").end(),
            |r| assert_eq!((text(r, "f"), text(r, "h")), ("new".into(), "old".into())),
        ),
        contained(
            "hard link over a directory",
            Tar::new().file("f", "x").file("d/g", "y").hardlink("d", "f").end(),
            |r| assert_eq!(text(r, "d"), "x"),
        ),
        contained(
            "directory, file and directory of one name",
            Tar::new().file("d/old", "x").file("d", "y").dir("d/").file("d/new", "z").end(),
            |r| {
                assert!(!exists(r, "d/old"));
                assert_eq!(text(r, "d/new"), "z");
            },
        ),
        contained(
            "each type in place of another",
            {
                Tar::new()
                    .device("n", b'6', (0, 0), 0o600)
                    .symlink("n", "x")
                    .device("n", b'3', (1, 3), 0o600)
                    .dir("n/")
                    .file("n/f", "x")
                    .symlink("n", abs)
                    .file("n", "last")
                    .end()
            },
            |r| assert_eq!(text(r, "n"), "last"),
        ),
        contained(
            "directory made by way of a link, whose target is replaced",
            Tar::new().dir("d/").symlink("l", "/d").dir("l/x/").file("d", "y").end(),
            |r| assert_eq!(text(r, "d"), "y"),
        ),
        contained(
            "the same, and the target is a directory again",
            Tar::new().dir("d/").symlink("l", "/d").dir("l/x/y/").file("d", "").dir("d/").end(),
            |r| assert!(!exists(r, "d/x")),
        ),
        contained(
            "times of what a link led to",
            Tar::new().dir("a/x/").symlink("l", "a").dir("l/x/").symlink("l", abs).end(),
            |r| assert!(r.join("l").is_symlink()),
        ),
        refused("links in a row, too many", {
            let mut tar = Tar::new().dir("l0/");
            for n in 0..45 {
                tar = tar.symlink(&format!("l{}", n + 1), &format!("l{n}"));
            }
            tar.file("l45/f", "x").end()
        }),
        contained(
            "longest target of a link",
            Tar::new().pax(&[("linkpath", &[b't'; 4095])]).symlink("l", "").end(),
            |r| assert_eq!(r.join("l").read_link().expect("link").as_os_str().len(), 4095),
        ),
        contained(
            "targets that only look dangerous",
            {
                Tar::new()
                    .symlink("a", "$(reboot)")
                    .symlink("b", "\u{1b}[2J")
                    .symlink("c", "//host/share")
                    .end()
            },
            |r| assert_eq!(std::fs::read_dir(r).expect("list").count(), 3),
        ),
        refused("/proc/self/cwd as a parent", {
            Tar::new().symlink("p", "/proc/self/cwd").file("p/evil", "x").end()
        }),
        refused("/dev/fd as a parent", {
            Tar::new().symlink("p", "/dev/fd/3").file("p/evil", "x").end()
        }),
    ]
}
