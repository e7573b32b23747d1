//! Extended attributes: what steers overlayfs, what security modules believe, and what is no
//! attribute at all.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    vec![
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
            "more overlay attributes, on a file and a directory",
            {
                let smuggled: [(&str, &[u8]); 6] = [
                    ("SCHILY.xattr.trusted.overlay.whiteout", b""),
                    ("SCHILY.xattr.trusted.overlay.origin", b"x"),
                    ("SCHILY.xattr.trusted.overlay.overlay.opaque", b"y"),
                    ("SCHILY.xattr.user.overlay.opaque", b"x"),
                    ("SCHILY.xattr.user.overlay.whiteout", b""),
                    ("SCHILY.xattr.trusted.other", b"x"),
                ];
                Tar::new().pax(&smuggled).file("f", "").pax(&smuggled).dir("d/").end()
            },
            |r| {
                for path in ["f", "d"] {
                    let mut list = [0u8; 256];
                    let n = rustix::fs::llistxattr(r.join(path), &mut list[..]).expect("list");
                    assert_eq!(n, 0, "{path}: {}", String::from_utf8_lossy(&list[..n]));
                }
            },
        ),
        contained(
            "overlay attributes by other programs' records",
            {
                Tar::new()
                    .pax(&[
                        ("LIBARCHIVE.xattr.trusted.overlay.opaque", b"eQ=="),
                        ("LIBARCHIVE.xattr.user.k", b"eQ=="),
                        ("RHT.security.selinux", b"evil"),
                        ("SCHILY.acl.access", b"user::rwx"),
                    ])
                    .dir("d/")
                    .end()
            },
            |r| {
                let mut list = [0u8; 256];
                assert_eq!(rustix::fs::llistxattr(r.join("d"), &mut list[..]), Ok(0));
            },
        ),
        contained(
            "attributes of other security modules",
            {
                Tar::new()
                    .pax(&[
                        ("SCHILY.xattr.security.apparmor", b"x"),
                        ("SCHILY.xattr.security.SMACK64", b"x"),
                        ("SCHILY.xattr.security.SMACK64EXEC", b"x"),
                        ("SCHILY.xattr.btrfs.compression", b"zstd"),
                        ("SCHILY.xattr.nonsense", b"x"),
                    ])
                    .file("f", "")
                    .end()
            },
            |r| {
                let mut list = [0u8; 256];
                assert_eq!(rustix::fs::llistxattr(r.join("f"), &mut list[..]), Ok(0));
            },
        ),
        refused("capability of three bytes", capability(b"abc")),
        refused(
            "capability of another version",
            capability(&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        refused("capability without content", capability(b"")),
        refused("capability of 64 KiB", capability(&[2; 65_536])),
        contained(
            "capability for the root of another namespace",
            {
                capability(&[
                    1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0,
                ])
            },
            |r| {
                let mut value = [0u8; 64];
                let n = rustix::fs::lgetxattr(r.join("f"), "security.capability", &mut value[..]);
                assert_eq!(&value[..n.expect("capability")][20..], [0xe8, 3, 0, 0], "not for ours");
            },
        ),
        contained(
            "capability, then another file in its place",
            {
                [capability(&CAPABILITY), Tar::new().file("f", "plain").end()]
                    .map(|tar| tar[..tar.len() - 1024].to_vec())
                    .concat()
            },
            |r| assert!(!xattr(&r.join("f"), "security.capability")),
        ),
        contained(
            "an attribute twice",
            {
                Tar::new()
                    .pax(&[("SCHILY.xattr.user.k", b"1"), ("SCHILY.xattr.user.k", b"22")])
                    .file("f", "")
                    .end()
            },
            |r| {
                let mut value = [0u8; 8];
                assert_eq!(rustix::fs::lgetxattr(r.join("f"), "user.k", &mut value[..]), Ok(2));
            },
        ),
        refused("name of an attribute with 256 bytes", {
            let key = format!("SCHILY.xattr.user.{}", "n".repeat(251));
            Tar::new().pax(&[(&key, b"x")]).file("f", "").end()
        }),
        refused("NUL in the name of an attribute", {
            Tar::new().pax(&[("SCHILY.xattr.user.a\0b", b"x")]).file("f", "").end()
        }),
        refused("attribute of 64 KiB and a byte", {
            Tar::new().pax(&[("SCHILY.xattr.user.k", &[7; 65_537])]).file("f", "").end()
        }),
        refused("1,001 attributes", {
            let keys: Vec<String> = (0..1001).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
            let records: Vec<(&str, &[u8])> =
                keys.iter().map(|key| (&key[..], &b"x"[..])).collect();
            Tar::new().pax(&records).file("f", "").end()
        }),
        contained(
            "attributes on what has none",
            {
                let k: [(&str, &[u8]); 1] = [("SCHILY.xattr.user.k", b"x")];
                Tar::new()
                    .pax(&k)
                    .symlink("l", "x")
                    .pax(&k)
                    .device("p", b'6', (0, 0), 0o600)
                    .pax(&k)
                    .device("n", b'3', (1, 3), 0o600)
                    .file("f", "x")
                    .pax(&k)
                    .hardlink("h", "f")
                    .end()
            },
            |r| assert!(!xattr(&r.join("h"), "user.k")),
        ),
        contained(
            "set-id bits stay with their owner",
            {
                Tar::new()
                    .head(&Head {
                        path: b"f",
                        mode: 0o6755,
                        uid: 7,
                        gid: 8,
                        size: 1,
                        ..Head::default()
                    })
                    .data(b"x")
                    .head(&Head { path: b"f", mode: 0o755, uid: 9, size: 1, ..Head::default() })
                    .data(b"y")
                    .end()
            },
            |r| assert_eq!((mode(r, "f"), text(r, "f")), (0o755, "y".into())),
        ),
    ]
}

const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A file with this as its capabilities.
fn capability(value: &[u8]) -> Vec<u8> {
    Tar::new().pax(&[("SCHILY.xattr.security.capability", value)]).file("f", "x").end()
}
