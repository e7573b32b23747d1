//! SEC-27, SEC-28, SEC-29 for archives of whole images: tables that name what is elsewhere, that
//! contradict each other, or that have no end. What is refused is refused with the name of the
//! entry or document, and nothing stays; the layers within are the matter of `pouch-unpack`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use common::{body, config, docker_archive, gzip, rig, tar};
use pouch_image::{ListFilter, Owner, Progress};
use pouch_types::{Classified, Digest, ErrorKind};
use serde_json::{Value, json};

/// What must come of an archive.
enum Want {
    /// Refused as invalid, with this in the message.
    Refused(&'static str),
    /// Loaded: so many images.
    Loaded(usize),
}

use Want::{Loaded, Refused};

struct Case {
    name: &'static str,
    archive: Vec<u8>,
    want: Want,
}

fn case(name: &'static str, archive: Vec<u8>, want: Want) -> Case {
    Case { name, archive, want }
}

fn layer() -> Vec<u8> {
    tar(&[("a", b"1")])
}

/// An entry with any type and name, which [`common::tar`] would refuse.
fn entry(name: &[u8], kind: u8, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), data].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    entry(name.as_bytes(), b'0', "", data)
}

/// What `docker save` writes, with this table and configuration, its layer as `l`, and more.
fn docker(table: &Value, config: &[u8], more: &[Vec<u8>]) -> Vec<u8> {
    let table = file("manifest.json", table.to_string().as_bytes());
    [table, file("c", config), file("l", &layer()), more.concat(), vec![0; 1024]].concat()
}

/// A table of one image.
fn table(config: &str, layers: &[&str], tags: &[&str]) -> Value {
    json!([{"Config": config, "RepoTags": tags, "Layers": layers}])
}

/// An archive whose configuration of one layer is changed.
fn configured(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(&config(&[&layer()], "x")).unwrap();
    change(&mut value);
    docker(&table("c", &["l"], &["x"]), value.to_string().as_bytes(), &[])
}

fn with_table(text: &[u8]) -> Vec<u8> {
    [file("manifest.json", text), vec![0; 1024]].concat()
}

fn descriptor(bytes: &[u8], media_type: &str) -> Value {
    json!({
        "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len(),
    })
}

fn blob(bytes: &[u8]) -> Vec<u8> {
    let digest = Digest::of(bytes).to_string();
    file(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), bytes)
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An OCI layout with these blobs and this table.
fn layout(blobs: &[&[u8]], manifests: &Value) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    let blobs: Vec<u8> = blobs.iter().flat_map(|bytes| blob(bytes)).collect();
    [file("index.json", index.as_bytes()), blobs, vec![0; 1024]].concat()
}

/// The manifest of an image of one layer, changed; with its configuration and layer.
fn manifest(change: impl FnOnce(&mut Value)) -> [Vec<u8>; 3] {
    let (layer, config) = (layer(), config(&[&layer()], "x"));
    let mut value = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(&layer, "application/vnd.oci.image.layer.v1.tar")],
    });
    change(&mut value);
    [value.to_string().into_bytes(), config, layer]
}

fn listed(parts: &[Vec<u8>; 3]) -> Vec<u8> {
    let blobs = parts.each_ref().map(|part| &part[..]);
    layout(&blobs, &json!([descriptor(&parts[0], MANIFEST)]))
}

/// Names that a layout's table has for its manifest.
fn digest_of(text: &str) -> Vec<u8> {
    layout(&[], &json!([{"mediaType": MANIFEST, "digest": text, "size": 1}]))
}

fn entries() -> Vec<Case> {
    let good = || docker(&table("c", &["l"], &["x"]), &config(&[&layer()], "x"), &[]);
    let with =
        |more: Vec<u8>| docker(&table("c", &["l"], &["x"]), &config(&[&layer()], "x"), &[more]);
    let named = |name: &[u8]| with(entry(name, b'0', "", b"x"));
    let cut = |at: usize| good()[..at].to_vec();
    let mut long = entry(b"././@LongLink", b'L', "", &[b'n'; 1025]);
    long.extend(file("short", b"x"));
    let mut huge = entry(b"././@LongLink", b'L', "", b"");
    huge[124..136].copy_from_slice(b"77777777777\0");
    huge[148..156].fill(b' ');
    let sum: u32 = huge.iter().map(|byte| u32::from(*byte)).sum();
    huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let pax = |record: &[u8]| [entry(b"pax", b'x', "", record), file("next", b"x")].concat();
    vec![
        case("nothing hostile", good(), Loaded(1)),
        case("entry above the archive", named(b"../evil"), Refused("entry \"../evil\" leads out")),
        case(
            "entry above by the middle",
            named(b"a/../../evil"),
            Refused("leads out of the archive"),
        ),
        case("absolute entry", named(b"/etc/evil"), Refused("entry \"/etc/evil\" has an absolute")),
        case("entry that is no UTF-8", named(b"\xff\xfe"), Refused("not UTF-8")),
        case(
            "entry with terminal codes",
            named(b"../\x1b[2J"),
            Refused("\"../\\u{1b}[2J\" leads out"),
        ),
        case("entry without a name", named(b"./"), Loaded(1)),
        case(
            "link to the host",
            with(entry(b"s", b'2', "/etc/passwd", b"")),
            Refused("\"s\" is a link to"),
        ),
        case(
            "link above",
            with(entry(b"d/s", b'2', "../../evil", b"")),
            Refused("\"d/s\" is a link"),
        ),
        case(
            "hard link above",
            with(entry(b"h", b'1', "../evil", b"")),
            Refused("\"h\" is a link"),
        ),
        case("device", with(entry(b"sda", b'4', "", b"")), Refused("entry \"sda\" is neither")),
        case("fifo", with(entry(b"p", b'6', "", b"")), Refused("entry \"p\" is neither file")),
        case("sparse file", with(entry(b"s", b'S', "", b"")), Refused("entry \"s\" is neither")),
        case(
            "sparse file in records",
            with(pax(b"21 GNU.sparse.size=9\n")),
            Refused("archive entry \"next\": archive is malformed: a sparse file"),
        ),
        case("record that lies", with(pax(b"99 path=x\n")), Refused("archive entry \"next\": ")),
        case(
            "name above in a record",
            with(pax(b"16 path=../evil\n")),
            Refused("\"../evil\" leads out"),
        ),
        case("name of 1,025 bytes", with(long), Refused("its name is too long")),
        case("name of 8 GiB", with(huge), Refused("behind archive entry \"l\": ")),
        case("checksum", with(vec![7; 512]), Refused("behind archive entry \"l\": ")),
        case("cut in the table", cut(600), Refused("archive entry \"manifest.json\": ")),
        case("cut in the layer", cut(512 * 6), Refused("archive entry \"l\": ")),
        case(
            "cut in a header",
            cut(512 * 2 + 100),
            Refused("behind archive entry \"manifest.json\""),
        ),
        case("not an archive", vec![b'#'; 2000], Refused("begin of the archive: ")),
        case("gzip in gzip", gzip(&gzip(&good())), Refused("begin of the archive: ")),
        case("gzip that is cut", gzip(&good())[..200].to_vec(), Refused("archive")),
        case(
            "zstd with a window of 2 TiB",
            vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8, 1, 0, 0],
            Refused("begin of the archive: "),
        ),
        case("empty", Vec::new(), Refused("not an image archive")),
        case("a layer alone", layer(), Refused("not an image archive")),
        case(
            "a repositories file that names the host",
            with(file("repositories", br#"{"../../etc":{"passwd":"../../../etc/passwd"}}"#)),
            Loaded(1),
        ),
        case("two tables: the last one is it", with(file("manifest.json", b"[]")), Loaded(0)),
    ]
}

fn tables() -> Vec<Case> {
    let good = config(&[&layer()], "x");
    let by = |table: &Value, more: &[Vec<u8>]| docker(table, &good, more);
    let two = config(&[&layer(), &layer()], "x");
    vec![
        case("layer above", by(&table("c", &["../l"], &["x"]), &[]), Refused("lacks \"../l\"")),
        case(
            "layer of the host",
            by(&table("c", &["/etc/passwd"], &["x"]), &[]),
            Refused("lacks \"/etc/passwd\""),
        ),
        case(
            "configuration of the host",
            by(&table("/etc/passwd", &["l"], &["x"]), &[]),
            Refused("lacks \"/etc/passwd\""),
        ),
        case(
            "configuration above",
            by(&table("a/../../c", &["l"], &["x"]), &[]),
            Refused("lacks \"a/../../c\""),
        ),
        case(
            "configuration with a NUL",
            by(&table("c\0", &["l"], &["x"]), &[]),
            Refused("lacks \"c\\0\""),
        ),
        case(
            "configuration without a name",
            by(&table("", &["l"], &["x"]), &[]),
            Refused("lacks \"\""),
        ),
        case(
            "configuration that is a directory",
            by(&table("d", &["l"], &["x"]), &[entry(b"d/", b'5', "", b"")]),
            Refused("lacks \"d\""),
        ),
        case(
            "configuration that is the layer",
            by(&table("l", &["l"], &["x"]), &[]),
            Refused("configuration"),
        ),
        case(
            "layer by a link to a sibling",
            by(&table("c", &["d/s"], &["x"]), &[entry(b"d/s", b'2', "../l", b"")]),
            Loaded(1),
        ),
        case(
            "layer by a hard link",
            by(&table("c", &["h"], &["x"]), &[entry(b"h", b'1', "l", b"")]),
            Loaded(1),
        ),
        case(
            "layer by a link to itself",
            by(&table("c", &["s"], &["x"]), &[entry(b"s", b'2', "s", b"")]),
            Refused("lacks \"s\""),
        ),
        case(
            "layer by a link to nothing",
            by(&table("c", &["s"], &["x"]), &[entry(b"s", b'2', "none", b"")]),
            Refused("lacks \"s\""),
        ),
        case(
            "layer by 20 links",
            {
                let links: Vec<_> = (0..20)
                    .map(|n| {
                        let to = if n == 0 { "l".to_owned() } else { format!("s{}", n - 1) };
                        entry(format!("s{n}").as_bytes(), b'2', &to, b"")
                    })
                    .collect();
                by(&table("c", &["s19"], &["x"]), &links)
            },
            Refused("lacks \"s19\""),
        ),
        case(
            "no layers for one",
            by(&table("c", &[], &["x"]), &[]),
            Refused("lists 0 layers and its configuration 1"),
        ),
        case(
            "two layers for one",
            by(&table("c", &["l", "l"], &["x"]), &[]),
            Refused("lists 2 layers and its configuration 1"),
        ),
        case("one layer twice", docker(&table("c", &["l", "l"], &["x"]), &two, &[]), Loaded(1)),
        case(
            "another layer than its diffID",
            by(&table("c", &["m"], &["x"]), &[file("m", &tar(&[("a", b"2")]))]),
            Refused("wrong diff id"),
        ),
        case("name in upper case", by(&table("c", &["l"], &["UP"]), &[]), Refused("\"UP\"")),
        case(
            "name with a line end",
            by(&table("c", &["l"], &["x:1\n"]), &[]),
            Refused("invalid reference"),
        ),
        case(
            "name of a path",
            by(&table("c", &["l"], &["../../etc"]), &[]),
            Refused("invalid reference"),
        ),
        case(
            "table that is cut",
            with_table(b"[{\"Config\":\"c\""),
            Refused("manifest.json of the archive does not parse"),
        ),
        case(
            "table that is an object",
            with_table(b"{}"),
            Refused("manifest.json of the archive does not parse"),
        ),
        case(
            "table of numbers",
            with_table(b"[1,2]"),
            Refused("manifest.json of the archive does not parse"),
        ),
        case(
            "table with a byte order mark",
            with_table(b"\xef\xbb\xbf[]"),
            Refused("does not parse"),
        ),
        case("table that is deep", with_table(&[b'['; 100_000]), Refused("does not parse")),
        case(
            "deep within what is ignored",
            with_table(&[&b"[{\"Config\":\"c\",\"X\":"[..], &[b'['; 100_000]].concat()),
            Refused("does not parse"),
        ),
        case(
            "table of 4 MiB and a byte",
            with_table(&vec![b' '; (4 << 20) + 1]),
            Refused("manifest.json of the archive: is larger than 4194304"),
        ),
        case(
            "1,025 images",
            by(&json!(vec![table("c", &["l"], &[])[0].clone(); 1025]), &[]),
            Refused("more than 1024 images"),
        ),
        case(
            "1,025 names",
            by(&table("c", &["l"], &["x"; 1025]), &[]),
            Refused("more than 1024 names of one image"),
        ),
        case(
            "table without a configuration",
            with_table(br#"[{"Layers":[]}]"#),
            Refused("does not parse"),
        ),
        case(
            "one big configuration, named 1,000 times",
            {
                let mut value: Value = serde_json::from_slice(&good).unwrap();
                value["comment"] = json!("x".repeat(1 << 20));
                let config = value.to_string();
                docker(
                    &json!(vec![table("c", &["l"], &[])[0].clone(); 1000]),
                    config.as_bytes(),
                    &[],
                )
            },
            Refused("c of the archive: the archive's tables name more than"),
        ),
    ]
}

fn configurations() -> Vec<Case> {
    let raw = |bytes: &[u8]| docker(&table("c", &["l"], &["x"]), bytes, &[]);
    let many = |layers: usize| {
        configured(|config| {
            config["rootfs"]["diff_ids"] = json!(vec![Digest::of(&layer()).to_string(); layers]);
        })
    };
    let diff_id =
        |text: &'static str| configured(move |config| config["rootfs"]["diff_ids"] = json!([text]));
    vec![
        case("configuration that is no JSON", raw(b"ELF"), Refused("configuration does not parse")),
        case("configuration that is deep", raw(&[b'['; 100_000]), Refused("does not parse")),
        case(
            "deep within a field that is ignored",
            {
                raw(&[&br#"{"os":"linux","architecture":"amd64","x":"#[..], &[b'['; 100_000]]
                    .concat())
            },
            Refused("does not parse"),
        ),
        case(
            "configuration of 8 MiB and a byte",
            raw(&vec![b' '; (8 << 20) + 1]),
            Refused("c of the archive: is larger than 8388608"),
        ),
        case("501 layers", many(501), Refused("501 layers")),
        case("1,000 layers", many(1000), Refused("1000 layers")),
        case("diffID above", diff_id("sha256:../../../../etc/passwd"), Refused("invalid digest")),
        case(
            "diffID in upper case",
            diff_id("sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"),
            Refused("invalid digest"),
        ),
        case("diffID that is short", diff_id("sha256:00"), Refused("invalid digest")),
        case(
            "diffID of another hash",
            diff_id("md5:d41d8cd98f00b204e9800998ecf8427e"),
            Refused("digest"),
        ),
        case("diffID that is empty", diff_id(""), Refused("digest")),
        case(
            "5,000 entries of history",
            configured(|config| {
                config["history"] = json!(vec![json!({"created_by": "x"}); 5000]);
            }),
            Refused("5000 history entries"),
        ),
        case(
            "NUL in the environment",
            configured(|config| {
                config["config"]["Env"] = json!(["A=\0"]);
            }),
            Refused("NUL byte"),
        ),
        case(
            "root file system of another kind",
            configured(|config| {
                config["rootfs"]["type"] = json!("../../etc");
            }),
            Refused("root file system of type"),
        ),
        case(
            "no operating system",
            configured(|config| config["os"] = json!("")),
            Refused("no operating system"),
        ),
        case(
            "layers that are no list",
            configured(|config| {
                config["rootfs"]["diff_ids"] = json!({"0": "x"});
            }),
            Refused("does not parse"),
        ),
    ]
}

fn layouts() -> Vec<Case> {
    let good = manifest(|_| {});
    let annotated = |name: &str, value: &str| {
        let mut top = descriptor(&good[0], MANIFEST);
        top["annotations"] = json!({name: value});
        let blobs = good.each_ref().map(|part| &part[..]);
        layout(&blobs, &json!([top]))
    };
    let nested = |depth: usize| {
        let mut blobs = good.to_vec();
        let mut top = descriptor(&good[0], MANIFEST);
        for _ in 0..depth {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]});
            let bytes = index.to_string().into_bytes();
            top = descriptor(&bytes, INDEX);
            blobs.push(bytes);
        }
        let blobs: Vec<&[u8]> = blobs.iter().map(|bytes| &bytes[..]).collect();
        layout(&blobs, &json!([top]))
    };
    let lying = {
        let index = json!([descriptor(&good[0], MANIFEST)]);
        let table = json!({"schemaVersion": 2, "manifests": index}).to_string();
        let name = format!("blobs/sha256/{}", Digest::of(&good[0]).hex());
        [file("index.json", table.as_bytes()), file(&name, b"{}"), vec![0; 1024]].concat()
    };
    vec![
        case("a layout with nothing hostile", listed(&good), Loaded(1)),
        case(
            "digest of a path",
            digest_of("sha256:../../x"),
            Refused("index.json of the archive does not parse"),
        ),
        case(
            "digest with a slash",
            digest_of(&format!("sha256:{}", "/".repeat(64))),
            Refused("does not parse"),
        ),
        case(
            "digest in upper case",
            digest_of(&format!("sha256:{}", "A".repeat(64))),
            Refused("does not parse"),
        ),
        case(
            "digest of another hash",
            digest_of(&format!("sha512:{}", "0".repeat(128))),
            Refused("does not parse"),
        ),
        case("digest that is short", digest_of("sha256:00"), Refused("does not parse")),
        case(
            "manifest that is not there",
            digest_of(&Digest::of(b"x").to_string()),
            Refused(
                "lacks \"blobs/sha256/2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881\"",
            ),
        ),
        case("manifest with other bytes", lying, Refused("digest mismatch")),
        case(
            "manifest and index in one",
            listed(&manifest(|value| {
                value["manifests"] = json!([]);
            })),
            Refused("of the archive: "),
        ),
        case(
            "manifest that says it is an index",
            listed(&manifest(|value| {
                value["mediaType"] = json!(INDEX);
            })),
            Refused("of the archive: "),
        ),
        case(
            "manifest of version 1",
            listed(&manifest(|value| {
                *value = json!({"schemaVersion": 1, "fsLayers": [], "name": "x"});
            })),
            Refused("of the archive: "),
        ),
        case(
            "manifest whose layer is a path",
            listed(&manifest(|value| {
                value["layers"][0]["digest"] = json!("sha256:../../../l");
            })),
            Refused("of the archive: "),
        ),
        case(
            "manifest whose configuration is not there",
            listed(&manifest(|value| {
                value["config"]["digest"] = json!(Digest::of(b"x").to_string());
            })),
            Refused("archive lacks \"blobs/sha256/2d71"),
        ),
        case(
            "manifest of 1,000 layers",
            listed(&manifest(|value| {
                value["layers"] = json!(vec![value["layers"][0].clone(); 1000]);
            })),
            Refused("lists 1000 layers and its configuration 1"),
        ),
        case(
            "manifest of no layers",
            listed(&manifest(|value| {
                value["layers"] = json!([]);
            })),
            Refused("lists 0 layers and its configuration 1"),
        ),
        case(
            "manifest that is deep",
            listed(&manifest(|value| {
                *value = json!({"schemaVersion": 2, "x": (0..100).fold(json!(1), |inner, _| json!([[inner]]))});
            })),
            Refused("of the archive: "),
        ),
        case("indexes, one in another", nested(2), Loaded(1)),
        case("indexes without end", nested(50), Refused("nested too deep")),
        case(
            "1,025 manifests",
            layout(&[], &json!(vec![descriptor(b"x", MANIFEST); 1025])),
            Refused("more than 1024 images"),
        ),
        case(
            "table of 4 MiB and more",
            [file("index.json", &vec![b' '; (4 << 20) + 1]), vec![0; 1024]].concat(),
            Refused("index.json of the archive: is larger than"),
        ),
        case(
            "name in upper case by annotation",
            annotated("io.containerd.image.name", "UP"),
            Refused("\"UP\""),
        ),
        case(
            "name of a path by annotation",
            annotated("org.opencontainers.image.ref.name", "../../etc"),
            Refused("invalid reference"),
        ),
        case(
            "tag alone by annotation",
            annotated("org.opencontainers.image.ref.name", "../"),
            Refused("invalid reference"),
        ),
    ]
}

#[tokio::test]
async fn image_archives_are_refused_by_name_or_loaded() {
    let cases: Vec<Case> =
        [entries(), tables(), configurations(), layouts()].into_iter().flatten().collect();
    let count = cases.len();
    let mut wrong = Vec::new();
    for case in cases {
        let rig = rig().await;
        let canary = rig.dir.path().join("canary");
        std::fs::write(&canary, "sings").unwrap();
        let before = outside(rig.dir.path());
        let loaded = rig.images.load(body(case.archive), Owner::Docker, &Progress::none()).await;
        match (loaded, case.want) {
            (Ok(images), Loaded(number)) if images.len() == number => {}
            (Err(error), Refused(why)) => {
                let message = pouch_types::error::chain(&error);
                // A kind of root file system that exists elsewhere is not invalid but unknown.
                if !matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported)
                    || !message.contains(why)
                {
                    wrong.push(format!("{}: [{:?}] {message}, not {why}", case.name, error.kind()));
                }
                assert!(
                    rig.images.list(&ListFilter::default()).unwrap().is_empty(),
                    "{}",
                    case.name
                );
                assert!(rig.content.ingests().await.unwrap().is_empty(), "{}", case.name);
            }
            (Ok(images), _) => wrong.push(format!("{}: loaded {}", case.name, images.len())),
            (Err(error), _) => {
                wrong.push(format!("{}: {}", case.name, pouch_types::error::chain(&error)));
            }
        }
        assert_eq!(outside(rig.dir.path()), before, "{}", case.name);
        assert!(!std::path::Path::new("/etc/evil").exists(), "{}", case.name);
    }
    println!("{count} archives of images");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count >= 90, "only {count}");
}

/// The names beside the store's own, and the canary.
fn outside(dir: &std::path::Path) -> (Vec<String>, Vec<u8>) {
    let names = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("db"))
        .collect();
    names.sort();
    (names, std::fs::read(dir.join("canary")).unwrap())
}

/// What was loaded stays what it was when a hostile archive names the same things.
#[tokio::test]
async fn an_image_that_is_there_is_not_changed_by_a_liar() {
    let rig = rig().await;
    let honest = docker_archive(&["x:1"], &[&layer()], "x");
    let loaded = rig.images.load(body(honest), Owner::Docker, &Progress::none()).await.unwrap();
    let other = tar(&[("a", b"another")]);
    let lie = {
        let config = config(&[&layer()], "x");
        let manifest = table("c", &["l"], &["x:1"]).to_string();
        [
            file("manifest.json", manifest.as_bytes()),
            file("c", &config),
            file("l", &other),
            vec![0; 1024],
        ]
        .concat()
    };
    let again = rig.images.load(body(lie), Owner::Docker, &Progress::none()).await;
    // The layer is known by its diffID, so the lie is not even looked at, or it is refused.
    if let Ok(again) = again {
        assert_eq!(again[0].id, loaded[0].id);
        assert_eq!(again[0].layers[0].blob, loaded[0].layers[0].blob);
    }
    let image = rig.images.resolve("x:1").unwrap();
    assert_eq!(image.id, loaded[0].id);
    assert_eq!(rig.content.read(&image.layers[0].blob, 1 << 20).await.unwrap(), layer());
}
