//! What registries send that is no image, or not the one that was asked for: each is refused with
//! words that say why, and leaves nothing behind.

use std::sync::Arc;

use pouch_testkit::{
    OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Shelf, busybox, daemon, describe,
};
use serde_json::{Value, json};

use crate::pull_faults::{layer as layer_of, nothing_left, registry};

const APP: &str = "app";

/// An image whose manifest can be changed before it is put.
fn image(shelf: &mut Shelf, layers: &[Value], diff_ids: &[&Value]) -> Value {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = shelf.blob(APP, OCI_CONFIG, config.to_string().as_bytes());
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    })
}

fn index(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
}

fn platform(mut entry: Value, architecture: &str) -> Value {
    entry["platform"] = json!({"os": "linux", "architecture": architecture});
    entry
}

/// Puts every bad image on the shelf: tag, status (200 once there was something to tell), words, and whether a part may be kept for a
/// later attempt, because time may mend it.
fn fill(shelf: &mut Shelf) -> Vec<(&'static str, u16, &'static str, bool)> {
    let layer = shelf.blob(APP, OCI_LAYER, busybox());
    let good = image(shelf, std::slice::from_ref(&layer), &[&layer["digest"]]);
    let mut bad = Vec::new();
    let mut put = |shelf: &mut Shelf, tag, document: &Value, status, words, kept| {
        shelf.document(APP, tag, document);
        bad.push((tag, status, words, kept));
    };

    let mut helm = good.clone();
    helm["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    put(shelf, "helm", &helm, 400, "vnd.cncf.helm.config.v1+json\", which is not an image", false);
    let artifact = json!({
        "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [layer],
    });
    put(shelf, "artifact", &artifact, 400, "which is not an image", false);
    let old = json!({
        "schemaVersion": 1, "name": APP, "tag": "old", "architecture": "amd64", "fsLayers": [],
        "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws",
    });
    put(shelf, "schema1", &old, 501, "schema 1", false);
    let mut both = good.clone();
    both["manifests"] = json!([]);
    put(shelf, "ambiguous", &both, 400, "both layers and manifests", false);
    let mut long = good.clone();
    long["annotations"] = json!({"padding": "x".repeat(4 << 20)});
    put(shelf, "long", &long, 400, "manifest is larger than 4194304 bytes", false);

    let mut config = good.clone();
    config["config"] = shelf.blob(APP, OCI_CONFIG, &vec![b' '; (8 << 20) + 1]);
    put(shelf, "config-large", &config, 200, "larger than 8388608 bytes", false);
    config["config"]["size"] = json!(1000);
    put(shelf, "config-longer", &config, 200, "larger than 1000 bytes", false);
    config["config"] = shelf.blob(APP, OCI_CONFIG, b"no JSON");
    put(shelf, "config-nonsense", &config, 200, "image configuration", false);
    config["config"] = describe(OCI_CONFIG, b"not there");
    put(shelf, "config-missing", &config, 200, "is unknown to the registry", false);

    let many: Vec<Value> = vec![layer.clone(); 501];
    let ids: Vec<&Value> = vec![&layer["digest"]; 501];
    let many = image(shelf, &many, &ids);
    put(shelf, "layers-many", &many, 200, "501 layers", false);
    let mut fewer = good.clone();
    fewer["layers"] = json!([layer, layer]);
    put(shelf, "layers-more", &fewer, 200, "lists 2 layers and its configuration 1", false);
    let mut other = good.clone();
    other["layers"][0]["mediaType"] = json!("application/vnd.example.layer");
    put(shelf, "layer-type", &other, 200, "vnd.example.layer\", which is not an image", false);
    // A layer that is not here yet, unlike busybox.
    let bytes = layer_of("noise", 20_000, 1);
    let fresh = shelf.blob(APP, OCI_LAYER, &bytes);
    let mut size = image(shelf, std::slice::from_ref(&fresh), &[&fresh["digest"]]);
    size["layers"][0]["size"] = json!(bytes.len() - 10);
    put(shelf, "layer-longer", &size, 200, "larger than", false);
    size["layers"][0]["size"] = json!(bytes.len() + 10);
    put(shelf, "layer-shorter", &size, 200, "ended a blob after", true);
    size["layers"][0]["size"] = json!(u64::MAX);
    put(shelf, "layer-endless", &size, 200, "larger than", false);
    let missing = describe(OCI_LAYER, b"not there");
    let missing = image(shelf, std::slice::from_ref(&missing), &[&missing["digest"]]);
    put(shelf, "layer-missing", &missing, 200, "is unknown to the registry", false);
    let wrong = describe(OCI_LAYER, b"another tar");
    let wrong = image(shelf, std::slice::from_ref(&layer), &[&wrong["digest"]]);
    put(shelf, "layer-other", &wrong, 200, "mismatch", false);
    let text = shelf.blob(APP, OCI_LAYER, &vec![b'x'; 10_000]);
    let text = image(shelf, std::slice::from_ref(&text), &[&text["digest"]]);
    put(shelf, "layer-no-tar", &text, 200, "layer", false);
    // What is under the digest is something else.
    let liar = describe(OCI_LAYER, &vec![1; 5000]);
    shelf.put(
        &format!("{APP}/blobs/{}", liar["digest"].as_str().unwrap()),
        OCI_LAYER,
        vec![2; 5000],
    );
    let liar = image(shelf, std::slice::from_ref(&liar), &[&liar["digest"]]);
    put(shelf, "layer-wrong", &liar, 200, "digest mismatch", false);

    let entry = shelf.document(APP, "good", &good);
    let foreign = index(&[platform(entry.clone(), "s390x")]);
    put(shelf, "foreign", &foreign, 404, "no matching manifest for linux/amd64", false);
    put(shelf, "index-empty", &index(&[]), 404, "no matching manifest", false);
    // One within another is followed, but not for ever.
    let mut inner = platform(entry, "amd64");
    for depth in ["nested1", "nested2", "nested3", "nested4"] {
        inner = platform(shelf.document(APP, depth, &index(&[inner])), "amd64");
    }
    bad.push(("nested4", 400, "nested too deep", false));
    bad.push(("unknown", 404, "manifest unknown", false));
    bad
}

#[test]
fn what_is_no_image_is_refused_by_name_and_leaves_nothing() {
    daemon(|d| {
        d.stop();
        std::fs::write(d.path("config.json"), r#"{"max-download-attempts": 2}"#).unwrap();
        d.start_again();
        let mut shelf = Shelf::new();
        let bad = fill(&mut shelf);
        // A registry that answers for a digest with a manifest of another.
        let zeros = format!("sha256:{}", "0".repeat(64));
        shelf.put(&format!("{APP}/manifests/{zeros}"), OCI_MANIFEST, *b"{}");
        let proxy = registry(d, &Arc::new(shelf));
        let host = proxy.host();
        let before = d.census().only("file");
        let check = |suffix: &str, status: u16, words: &str| {
            let name = format!("{host}/{APP}{suffix}");
            let pull = d.docker(&["pull", &name]);
            println!("{suffix}: {}", pull.stderr.trim());
            pull.exits(1).fails_with(words);
            let answer = d.post(&format!("/images/create?fromImage={name}"), &Value::Null);
            assert_eq!(answer.status, status, "{suffix}: {}", answer.text());
        };
        for (tag, status, words, kept) in bad {
            check(&format!(":{tag}"), status, words);
            if kept {
                d.docker(&["image", "prune", "-f"]).check();
            }
            nothing_left(d, &before, tag);
        }
        check(&format!("@{zeros}"), 400, &format!("does not have the digest {zeros}"));
        nothing_left(d, &before, "a wrong digest");
        // Others go on to work.
        for tag in ["good", "nested1", "nested2"] {
            d.docker(&["run", "--rm", &format!("{host}/{APP}:{tag}")]).check();
            d.docker(&["rmi", &format!("{host}/{APP}:{tag}")]).check();
        }
        nothing_left(d, &before, "all of it");
    });
}

#[test]
fn layers_that_should_come_from_elsewhere_come_from_the_registry_or_not_at_all() {
    daemon(|d| {
        let elsewhere = registry(d, &Arc::new(Shelf::new()));
        let mut shelf = Shelf::new();
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar";
        let mut there = shelf.blob(APP, foreign, busybox());
        let mut missing = describe(foreign, b"not there");
        for layer in [&mut there, &mut missing] {
            let url = format!("{}/layer", elsewhere.url());
            layer["urls"] = json!([url]);
        }
        for (tag, layer) in [("there", &there), ("missing", &missing)] {
            let document = image(&mut shelf, std::slice::from_ref(layer), &[&layer["digest"]]);
            shelf.document(APP, tag, &document);
        }
        let proxy = registry(d, &Arc::new(shelf));
        let name = |tag: &str| format!("{}/{APP}:{tag}", proxy.host());
        d.docker(&["run", "--rm", &name("there")]).check();
        d.docker(&["pull", &name("missing")]).fails_with("is unknown to the registry");
        assert_eq!(elsewhere.seen().len(), 0, "a URL of a manifest was followed");
    });
}
