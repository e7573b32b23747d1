//! SEC-27, SEC-28: hostile layers and tables on every way that leads into the engine: load,
//! import, pull and cp. The corpora of all families are tests of `pouch-unpack` and `pouch-image`,
//! manifests of registries stand in `bad_images`; here is that each way ends there, and that what
//! users see names the entry.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use pouch_testkit::{Archive, Daemon, OCI_MANIFEST, Shelf, busybox, daemon};
use pouch_types::Digest;
use serde_json::{Value, json};

use crate::pull_faults::registry;

/// A header as it is told to be, with its data.
fn entry(name: &str, kind: u8, link: &str, device: (u32, u32), data: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, format!("{:011o}\0", 1_700_000_000).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}\0", device.0).as_bytes());
    put(337, format!("{:07o}\0", device.1).as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = [&block[..], data].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    entry(name, b'0', "", (0, 0), data)
}

fn symlink(name: &str, target: &str) -> Vec<u8> {
    entry(name, b'2', target, (0, 0), b"")
}

/// An extended header with one record of less than 98 bytes.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    entry("record", b'x', "", (0, 0), format!("{}{rest}", rest.len() + 2).as_bytes())
}

fn end(entries: &[Vec<u8>]) -> Vec<u8> {
    [&entries.concat()[..], &[0; 1024]].concat()
}

const SWAPPED: &str = "entry \"d/secret\": /d is a link that leads to nothing below the root";

/// Layers that must be refused, and what the message says of entry and reason.
fn hostile(outside: &str) -> Vec<(Vec<u8>, &'static str)> {
    let mut damaged = file("etc/damaged", b"x");
    damaged[0] = b'E';
    vec![
        (end(&[file("../evil", b"x")]), "entry \"../evil\": path leads out of the root"),
        (end(&[file("a/../../evil", b"x")]), "entry \"a/../../evil\": path leads out of the root"),
        (
            end(&[symlink("out", outside), file("out/evil", b"x")]),
            "entry \"out/evil\": /out is a link that leads to nothing below the root",
        ),
        (
            end(&[symlink("p", "/proc/self/root"), file("p/evil", b"x")]),
            "entry \"p/evil\": /p is a link that leads to nothing below the root",
        ),
        (
            end(&[entry("h", b'1', &format!("{outside}/secret"), (0, 0), b"")]),
            "entry \"h\": hard link to ",
        ),
        (end(&[file("d/secret", b"x"), symlink("d", outside), file("d/secret", b"x")]), SWAPPED),
        (
            end(&[entry("big", b'3', "", (4097, 1), b"")]),
            "entry \"big\": no device has the number 4097:1",
        ),
        (
            end(&[record("SCHILY.xattr.security.capability", ""), file("f", b"x")]),
            "entry \"f\": extended attribute \"security.capability\" without a value",
        ),
        (
            end(&[record("size", "99999999"), file("f", b"x")]),
            "entry \"f\": read archive: archive ends within an entry",
        ),
        (end(&[entry("label", b'V', "", (0, 0), b"")]), "entry \"label\": entries of type 'V'"),
        (end(&[file("ok", b"x"), damaged]), "behind entry \"ok\": damaged archive: "),
        (file("cut", &[7; 5000])[..1024].to_vec(), "entry \"cut\": "),
        (b"#!/bin/sh\nreboot\n".repeat(100), "begin of the archive: damaged archive: "),
    ]
}

/// Names and content of everything in `dir`.
fn seen(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut seen: Vec<String> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = std::fs::read(&path).unwrap();
            let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
            format!("{path:?} {:o} {} {times:?} {content:?}", meta.mode(), meta.nlink())
        })
        .collect();
    seen.sort();
    seen
}

/// An image of these layers as `docker save` writes it, with what its configuration says of them.
fn image(name: &str, layers: &[&[u8]], diff_ids: &[String]) -> Vec<u8> {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let names: Vec<String> = (0..layers.len()).map(|n| format!("l{n}")).collect();
    let table = json!([{"Config": "c", "RepoTags": [name], "Layers": names}]).to_string();
    let mut entries = vec![file("manifest.json", table.as_bytes()), file("c", config.as_bytes())];
    entries.extend(names.iter().zip(layers).map(|(name, layer)| file(name, layer)));
    end(&entries)
}

fn digests(layers: &[&[u8]]) -> Vec<String> {
    layers.iter().map(|layer| Digest::of(layer).to_string()).collect()
}

fn only_busybox(d: &Daemon) {
    let list = d.docker(&["images", "-a", "--format", "{{.Repository}}"]);
    assert_eq!(list.ok(), "busybox");
}

#[test]
fn hostile_layers_are_refused_by_name_on_every_way() {
    daemon(|d| {
        let outside = d.path("canary");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        let before = seen(&outside);
        let layers = hostile(outside.to_str().unwrap());
        let mut shelf = Shelf::new();
        for (n, (layer, _)) in layers.iter().enumerate() {
            shelf.image("x", &n.to_string(), &[&layer[..]], &json!({"Cmd": ["true"]}));
        }
        let registry = registry(d, &Arc::new(shelf));
        d.docker(&["create", "--name", "box", "busybox", "true"]).check();
        for (n, (layer, says)) in layers.iter().enumerate() {
            let layer = &layer[..];
            let archive = image("evil:1", &[layer], &digests(&[layer]));
            d.docker_with(&["load"], &archive).says(says);
            d.docker_with(&["import", "-", "evil:2"], layer).says(says);
            d.docker(&["pull", &format!("{}/x:{n}", registry.host())]).says(says);
            // `cp -` sends what it gets.
            let below_tmp = match *says {
                // The CLI asks that no directory is replaced.
                SWAPPED => "entry \"d\": cannot overwrite directory with non-directory".to_owned(),
                says => says.replace(": /", ": /tmp/"),
            };
            d.docker_with(&["cp", "-", "box:/tmp"], layer).says(&below_tmp);
            assert_eq!(seen(&outside), before, "{says}");
            assert!(!Path::new("/evil").exists(), "{says}");
        }
        only_busybox(d);
        d.docker(&["rm", "box"]).check();
        // What was begun is gone.
        let staged = std::fs::read_dir(d.data_root()).unwrap();
        for entry in staged.map(|entry| entry.unwrap().path().join("s")) {
            assert!(!entry.is_dir() || std::fs::read_dir(&entry).unwrap().count() == 0);
        }
    });
}

/// What is odd and not refused stays in the container.
#[test]
fn odd_layers_are_contained() {
    daemon(|d| {
        let outside = d.path("canary");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        let before = seen(&outside);
        let canary = outside.to_str().unwrap();
        let odd = end(&[
            // An entry 0:0 is a whiteout of what is below.
            entry("bin/vi", b'3', "", (0, 0), b""),
            file("bin/.wh.wc", b""),
            file("home/.wh..wh..opq", b""),
            record("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
            entry("var/", b'5', "", (0, 0), b""),
            symlink("up", "../../../.."),
            file("up/through", b"x"),
            symlink("host", canary),
            file("line\nend", b"x"),
            file("\u{1b}[2J", b"x"),
        ]);
        let mut base = Archive::busybox();
        base.file("home/below", 0o644, b"x").file("var/below", 0o644, b"x");
        let base = base.finish();
        let layers = [&base[..], &odd];
        d.docker_with(&["load"], &image("odd", &layers, &digests(&layers))).check();
        let look = "test ! -e /bin/vi && test ! -e /bin/wc && test ! -e /home/below \
                    && cat /through && test ! -e /host/secret && ls /var/below";
        assert_eq!(d.docker(&["run", "--rm", "odd", "sh", "-c", look]).ok(), "x/var/below");
        let write = "rm /host; mkdir -p /host; echo evil > /host/secret; cat /host/secret";
        assert_eq!(d.docker(&["run", "--rm", "odd", "sh", "-c", write]).ok(), "evil");
        assert_eq!(seen(&outside), before);
        d.docker(&["rmi", "odd"]).check();
    });
}

#[test]
fn hostile_tables_are_refused_by_name() {
    daemon(|d| {
        let layer = busybox();
        let other = Archive::new().finish();
        let known = digests(&[layer]);
        let load = |archive: &[u8]| d.docker_with(&["load"], archive);
        let table = |config: &str, layers: Value| {
            let table = json!([{"Config": config, "RepoTags": ["evil"], "Layers": layers}]);
            end(&[file("manifest.json", table.to_string().as_bytes()), file("c", b"{}")])
        };
        load(&table("/etc/passwd", json!([]))).says("archive lacks \"/etc/passwd\"");
        load(&table("../../etc/passwd", json!([]))).says("archive lacks \"../../etc/passwd\"");
        load(&end(&[symlink("l", "/etc/shadow")]))
            .says("archive entry \"l\" is a link to what cannot be");
        load(&end(&[file("../evil", b"x")])).says("archive entry \"../evil\" leads out");
        load(&image("evil", &[layer, layer], &known)).says("2 layers and its configuration 1");
        load(&image("evil", &[&other], &digests(&[b"absent"]))).says("mismatch");
        let thousand = vec![known[0].clone(); 1000];
        load(&image("evil", &[layer], &thousand)).says("1000 layers, at most 500");
        let deep = end(&[file("manifest.json", &[b'['; 100_000])]);
        load(&deep).says("manifest.json of the archive does not parse");
        let index = json!({"manifests": [{
            "mediaType": OCI_MANIFEST, "digest": "sha256:../../x", "size": 1,
        }]});
        load(&end(&[file("index.json", index.to_string().as_bytes())])).says("invalid digest");
        only_busybox(d);
    });
}
