//! Pulls under a policy that wants signatures, from a registry and its mirror, either of which may
//! lack them, be behind, or be hostile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;
#[path = "../../registry/tests/fake/mod.rs"]
mod fake;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{FakeLayers, config, tar};
use fake::{Answer, CONFIG, INDEX, MANIFEST, Request, Server, descriptor, manifest};
use pouch_content::ContentStore;
use pouch_image::{Image, ImageError, Images, ListFilter, Owner, Policy, Progress, PullRequest};
use pouch_registry::{Credentials, Registry, RegistryConfig, Wanted};
use pouch_store::Store;
use pouch_types::error::chain;
use pouch_types::{Classified, Digest, ErrorKind};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Media type and bytes by path.
type Things = BTreeMap<String, (String, Vec<u8>)>;

/// What a registry has below `/v2/app/`, and the status of what it has not.
#[derive(Clone)]
struct Shop {
    things: Arc<Mutex<Things>>,
    missing: Arc<Mutex<u16>>,
}

impl Shop {
    fn new() -> Self {
        Self { things: Arc::default(), missing: Arc::new(Mutex::new(404)) }
    }

    async fn open(&self) -> Server {
        let (things, missing) = (Arc::clone(&self.things), Arc::clone(&self.missing));
        Server::start(move |request: &Request| {
            let path = request.path.split('?').next().unwrap_or_default();
            let Some(path) = path.strip_prefix("/v2/app/") else { return Answer::ok("{}") };
            match things.lock().unwrap().get(path) {
                Some((kind, bytes)) => Answer::ok(bytes.clone()).header("content-type", kind),
                None => Answer::new(*missing.lock().unwrap()),
            }
        })
        .await
    }

    fn put(&self, path: &str, kind: &str, bytes: impl Into<Vec<u8>>) {
        self.things.lock().unwrap().insert(path.to_owned(), (kind.to_owned(), bytes.into()));
    }

    fn blob(&self, bytes: &[u8]) {
        self.put(&format!("blobs/{}", Digest::of(bytes)), "application/octet-stream", bytes);
    }

    fn document(&self, tag: &str, kind: &str, bytes: &[u8]) {
        self.put(&format!("manifests/{tag}"), kind, bytes);
        self.put(&format!("manifests/{}", Digest::of(bytes)), kind, bytes);
    }

    /// An image under the tag `1`; gives the manifest's digest.
    fn image(&self) -> Digest {
        let layer = tar(&[("file", b"content")]);
        let config = config(&[&layer], "signed");
        let manifest = manifest(&config, &[&layer]);
        self.blob(&layer);
        self.blob(&config);
        self.document("1", MANIFEST, manifest.as_bytes());
        Digest::of(manifest.as_bytes())
    }

    /// Attaches layers, each a payload and its annotations, to a document.
    fn attach(&self, to: &Digest, layers: &[(&[u8], Value)]) {
        let layers: Vec<Value> = layers
            .iter()
            .map(|(payload, annotations)| {
                self.blob(payload);
                let mut layer: Value = serde_json::from_str(&descriptor(PAYLOAD, payload)).unwrap();
                layer["annotations"] = annotations.clone();
                layer
            })
            .collect();
        let config: Value = serde_json::from_str(&descriptor(CONFIG, b"{}")).unwrap();
        let attachment = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        self.document(&tag(to), MANIFEST, attachment.to_string().as_bytes());
    }
}

fn tag(of: &Digest) -> String {
    format!("sha256-{}.sig", of.hex())
}

struct Key(EcdsaKeyPair);

impl Key {
    fn new() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap())
    }

    /// In PEM, in base64.
    fn data(&self) -> String {
        // What comes before the point of a key of this kind.
        const HEAD: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";
        let mut der = STANDARD.decode(HEAD).unwrap();
        der.pop();
        der.extend(self.0.public_key().as_ref());
        let text = STANDARD.encode(der);
        STANDARD.encode(format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"))
    }

    /// A payload and its annotations.
    fn sign(&self, reference: &str, digest: &Digest) -> (Vec<u8>, Value) {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": reference},
                "image": {"docker-manifest-digest": digest.to_string()},
                "type": "cosign container image signature",
            },
            "optional": {},
        });
        let payload = payload.to_string().into_bytes();
        let proof = self.0.sign(&SystemRandom::new(), &payload).unwrap();
        let proof = STANDARD.encode(proof.as_ref());
        (payload, json!({"dev.cosignproject.cosign/signature": proof}))
    }
}

/// An origin that is `127.0.0.1:…`, a mirror of it, and images that want a signature by one key.
struct Rig {
    origin: (Shop, Server),
    mirror: (Shop, Server),
    key: Key,
    images: Images,
    content: ContentStore,
    _dir: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        let (origin, mirror) = (Shop::new(), Shop::new());
        let (at_origin, at_mirror) = (origin.open().await, mirror.open().await);
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join(at_origin.host());
        std::fs::create_dir(&hosts).unwrap();
        let text = format!(
            "[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            at_mirror.host()
        );
        std::fs::write(hosts.join("hosts.toml"), text).unwrap();
        let registry = RegistryConfig {
            hosts_dirs: vec![dir.path().to_owned()],
            idle_timeout: Duration::from_secs(3),
            back_off: Duration::from_millis(10),
            attempts: 2,
            ..RegistryConfig::default()
        };
        let store = Store::open(&dir.path().join("db"), &[pouch_image::SCHEMA]).unwrap().store;
        let content = ContentStore::open(&dir.path().join("content")).unwrap();
        let layers = Arc::new(FakeLayers::default());
        let registry = Registry::new(registry).unwrap();
        let images = Images::open(store, content.clone(), layers, registry).await.unwrap();
        let key = Key::new();
        let policy = json!({"default": [{"type": "sigstoreSigned", "keyData": key.data()}]});
        let file = dir.path().join("policy.json");
        std::fs::write(&file, policy.to_string()).unwrap();
        images.set_policy(Policy::read(&file).unwrap());
        let (origin, mirror) = ((origin, at_origin), (mirror, at_mirror));
        Self { origin, mirror, key, images, content, _dir: dir }
    }

    fn name(&self) -> String {
        format!("{}/app:1", self.origin.1.host())
    }

    async fn pull(&self) -> Result<Arc<Image>, ImageError> {
        let (progress, mut events) = Progress::channel();
        let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
        let request = PullRequest {
            reference: self.name().parse().unwrap(),
            credentials: Credentials::Anonymous,
            platform: Wanted::Host,
            owner: Owner::Docker,
        };
        let image = self.images.pull(request, &progress).await;
        drop(progress);
        drain.await.unwrap();
        image
    }

    /// Asserts that a pull fails so and leaves nothing.
    async fn refused(&self, kind: ErrorKind, why: &str) {
        let error = self.pull().await.unwrap_err();
        assert!(chain(&error).contains(why), "{}", chain(&error));
        assert_eq!(error.kind(), kind, "{}", chain(&error));
        assert!(self.images.list(&ListFilter::default()).unwrap().is_empty());
        assert_eq!(self.content.walk().await.unwrap().len(), 0);
    }

    fn attach(&self, shop: &Shop, digest: &Digest, key: &Key) {
        let (payload, annotations) = key.sign(&self.name(), digest);
        shop.attach(digest, &[(&payload, annotations)]);
    }
}

#[tokio::test]
async fn a_mirror_without_signatures_is_not_the_last_word() {
    let rig = Rig::new().await;
    let digest = rig.mirror.0.image();
    assert_eq!(rig.origin.0.image(), digest);
    rig.refused(ErrorKind::Denied, "a signature is required, and the image has none").await;
    rig.attach(&rig.origin.0, &digest, &rig.key);
    rig.pull().await.unwrap();
    let asked = rig.origin.1.requests();
    let blobs = asked.iter().filter(|r| r.path.contains("/blobs/")).count();
    assert_eq!(blobs, 1, "the payload; the rest comes from the mirror: {asked:?}");
}

#[tokio::test]
async fn a_mirror_that_is_behind_is_not_the_last_word() {
    let rig = Rig::new().await;
    let digest = rig.mirror.0.image();
    rig.origin.0.image();
    rig.attach(&rig.mirror.0, &digest, &Key::new());
    rig.refused(ErrorKind::Denied, "the image has none").await;
    rig.attach(&rig.origin.0, &digest, &rig.key);
    rig.pull().await.unwrap();
}

#[tokio::test]
async fn a_good_signature_is_good_wherever_it_comes_from() {
    let rig = Rig::new().await;
    let digest = rig.mirror.0.image();
    rig.attach(&rig.mirror.0, &digest, &rig.key);
    rig.pull().await.unwrap();
    assert!(rig.origin.1.requests().is_empty(), "{:?}", rig.origin.1.requests());
}

#[tokio::test]
async fn signatures_that_cannot_be_fetched_are_not_there() {
    let rig = Rig::new().await;
    rig.mirror.0.image();
    *rig.origin.0.missing.lock().unwrap() = 500;
    let why = format!("signatures of {}", rig.name());
    rig.refused(ErrorKind::Unavailable, &why).await;
    *rig.origin.0.missing.lock().unwrap() = 403;
    rig.refused(ErrorKind::NotFound, &why).await;
}

#[tokio::test]
async fn the_index_may_be_signed_in_place_of_the_manifest() {
    let rig = Rig::new().await;
    let shop = &rig.origin.0;
    let digest = shop.image();
    let raw = shop.things.lock().unwrap()["manifests/1"].1.clone();
    let mut entry: Value = serde_json::from_str(&descriptor(MANIFEST, &raw)).unwrap();
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    shop.document("1", INDEX, index.as_bytes());
    let top = Digest::of(index.as_bytes());
    rig.refused(ErrorKind::Denied, "the image has none").await;
    // A signature of the one is none of the other.
    let (payload, annotations) = rig.key.sign(&rig.name(), &digest);
    shop.attach(&top, &[(&payload, annotations)]);
    rig.refused(ErrorKind::Denied, &format!("is for the digest {digest}")).await;
    rig.attach(shop, &top, &rig.key);
    rig.pull().await.unwrap();
}

#[tokio::test]
async fn hostile_attachments_open_nothing() {
    let rig = Rig::new().await;
    let shop = &rig.origin.0;
    let digest = shop.image();
    let (good, proof) = rig.key.sign(&rig.name(), &digest);
    let bad = json!({"dev.cosignproject.cosign/signature": "AAAA"});
    let signature = |text: &str| json!({"dev.cosignproject.cosign/signature": text});
    for (annotations, why) in [
        (Value::Null, "has no annotation dev.cosignproject.cosign/signature"),
        (json!({"other": "x"}), "has no annotation"),
        (signature("no base64!"), "is not in base64"),
        (signature(&"A".repeat(100_000)), "is not in base64"),
        (signature(""), "was not made by a trusted key"),
        (bad.clone(), "was not made by a trusted key"),
    ] {
        shop.attach(&digest, &[(&good, annotations)]);
        rig.refused(ErrorKind::Denied, why).await;
    }
    // Too large to be fetched, whatever it is signed by.
    let large = vec![b' '; 65 << 10];
    shop.attach(&digest, &[(&large, proof.clone())]);
    rig.refused(ErrorKind::Denied, "has a payload of more than 65536 bytes").await;
    // Only so many are looked at.
    let mut many = vec![(&good[..], bad.clone()); 128];
    many.push((&good, proof.clone()));
    shop.attach(&digest, &many);
    rig.refused(ErrorKind::Denied, "and 124 more").await;
    // Another kind of attachment is none.
    let of_other = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": serde_json::from_str::<Value>(&descriptor(CONFIG, b"{}")).unwrap(),
        "layers": [{
            "mediaType": "application/vnd.dsse.envelope.v1+json",
            "digest": Digest::of(&good), "size": good.len(), "annotations": proof,
        }],
    });
    shop.document(&tag(&digest), MANIFEST, of_other.to_string().as_bytes());
    rig.refused(ErrorKind::Denied, "the image has none").await;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).to_string();
    shop.document(&tag(&digest), INDEX, index.as_bytes());
    rig.refused(ErrorKind::Denied, "does not parse").await;
    shop.put(&format!("manifests/{}", tag(&digest)), MANIFEST, "[]");
    rig.refused(ErrorKind::Invalid, "signatures of").await;
    // A payload that is not there, or is another than was announced.
    shop.attach(&digest, &[(&good, proof.clone())]);
    shop.put(&format!("blobs/{}", Digest::of(&good)), "text/plain", vec![b'x'; good.len()]);
    rig.refused(ErrorKind::Invalid, "does not have the digest").await;
    // After all that, the good one is good.
    shop.attach(&digest, &[(&good, bad), (&good, proof)]);
    rig.pull().await.unwrap();
}
