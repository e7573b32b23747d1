//! The verification policy of images: what it lets in, what it keeps out, and what is left of that.
//! Signatures are made by openssl, which shares no code with what checks them.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use pouch_testkit::{
    Archive, Connection, Daemon, Host, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Registry, busybox,
    describe, docker_archive, eventually, have, program,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// A policy file with keys beside it.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    /// `None`, with the reason printed, where nothing can be signed.
    fn new() -> Option<Self> {
        have("openssl").then(|| Self { dir: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn flag(&self) -> String {
        format!("--image-policy={}", self.path("policy.json").display())
    }

    /// Writes a policy that lets the testkit's own image in, and of a registry what `docker` says.
    fn write(&self, docker: &Value) {
        let accept = json!([{"type": "insecureAcceptAnything"}]);
        let policy = json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": docker, "tarball": {"": accept}},
        });
        std::fs::write(self.path("policy.json"), policy.to_string()).unwrap();
    }

    /// Makes a key pair and gives the path of the public half.
    fn key(&self, name: &str) -> PathBuf {
        let (private, public) = (self.path(name), self.path(&format!("{name}.pub")));
        let make = ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"];
        openssl(Command::new("openssl").args(make).arg(&private));
        let tell = ["ec", "-pubout", "-in"];
        openssl(Command::new("openssl").args(tell).arg(&private).arg("-out").arg(&public));
        public
    }

    fn sign(&self, key: &str, payload: &[u8]) -> String {
        let (private, file, signature) = (self.path(key), self.path("m"), self.path("s"));
        std::fs::write(&file, payload).unwrap();
        let words = ["dgst", "-sha256", "-out"];
        let mut sign = Command::new("openssl");
        openssl(sign.args(words).arg(&signature).arg("-sign").arg(private).arg(&file));
        let output = Command::new("base64").arg("-w0").arg(&signature).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

fn openssl(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One request to the registry: status, value of `location`, body.
fn ask(d: &Daemon, head: &str, kind: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let answer = d.netns().enter(|| {
        let mut stream = std::net::TcpStream::connect(Registry::HOST).unwrap();
        let length = body.len();
        let host = Registry::HOST;
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Accept: {OCI_MANIFEST}, {OCI_INDEX}, \
             application/vnd.docker.distribution.manifest.v2+json\r\n\
             Content-Length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let location = head.lines().find_map(|l| l.strip_prefix("Location: ")).unwrap_or_default();
    (status, location.to_owned(), answer[end + 4..].to_vec())
}

fn put(d: &Daemon, path: &str, kind: &str, body: &[u8]) {
    let (status, _, said) = ask(d, &format!("PUT {path}"), kind, body);
    assert_eq!(status, 201, "{path}: {}", String::from_utf8_lossy(&said));
}

/// Puts a blob into a repository and gives its descriptor.
fn blob(d: &Daemon, repository: &str, kind: &str, bytes: &[u8]) -> Value {
    let described = describe(kind, bytes);
    let (status, location, _) = ask(d, &format!("POST /v2/{repository}/blobs/uploads/"), kind, b"");
    assert_eq!(status, 202);
    let path = location.split_once(Registry::HOST).map_or(&*location, |(_, path)| path);
    let joint = if path.contains('?') { '&' } else { '?' };
    let digest = described["digest"].as_str().unwrap();
    put(d, &format!("{path}{joint}digest={digest}"), "application/octet-stream", bytes);
    described
}

fn digest_of(d: &Daemon, name: &str) -> String {
    let (repository, tag) = name.rsplit_once(':').unwrap();
    let (status, _, raw) = ask(d, &format!("GET /v2/{repository}/manifests/{tag}"), "", b"");
    assert_eq!(status, 200);
    describe("", &raw)["digest"].as_str().unwrap().to_owned()
}

/// Attaches a signature to the document `digest`, which says that it is of `signed_digest`.
fn attach(
    d: &Daemon,
    desk: &Desk,
    (repository, digest): (&str, &str),
    (key, reference, signed_digest): (&str, &str, &str),
) {
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": reference},
            "image": {"docker-manifest-digest": signed_digest},
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    let payload = payload.to_string();
    let config =
        json!({"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": []}});
    let config = blob(d, repository, OCI_CONFIG, config.to_string().as_bytes());
    let mut layer = blob(d, repository, PAYLOAD, payload.as_bytes());
    let signature = desk.sign(key, payload.as_bytes());
    layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
    let manifest =
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]});
    let tag = format!("{}.sig", digest.replace(':', "-"));
    let path = format!("/v2/{repository}/manifests/{tag}");
    put(d, &path, OCI_MANIFEST, manifest.to_string().as_bytes());
}

/// Images with contents of their own, so that none has another's digest.
fn push(d: &Daemon, registry: &Registry, name: &str) -> String {
    let config = json!({"Cmd": ["echo", name]});
    registry.push(d, &docker_archive("x:1", busybox(), &config), name);
    digest_of(d, name)
}

/// Names and ids of all images, and the files that are kept for them.
fn images(d: &Daemon) -> String {
    let format = "{{.Repository}}:{{.Tag}}@{{.Digest}} {{.ID}}";
    let list = d.docker(&["images", "-a", "--no-trunc", "--format", format]);
    let blobs = d.data_root().join("content");
    let files = Command::new("find").arg(blobs).args(["-type", "f", "-size", "+0"]).output();
    format!("{}\n{}", list.ok(), String::from_utf8_lossy(&files.unwrap().stdout))
}

#[test]
fn what_the_policy_rejects_leaves_nothing() {
    let Some(desk) = Desk::new() else { return };
    let host = Registry::HOST;
    desk.write(&json!({
        format!("{host}/open"): [{"type": "insecureAcceptAnything"}],
        format!("{host}/open/not:bad"): [{"type": "reject"}],
    }));
    Host::new().flags(&[&desk.flag()]).run(|d| {
        let Some(registry) = Registry::start(d) else { return };
        for name in ["open/a:1", "open/not:bad", "closed/a:1"] {
            push(d, &registry, name);
        }
        let before = images(d);
        let file = desk.path("policy.json");
        for name in ["closed/a:1", "open/not:bad"] {
            let full = format!("{host}/{name}");
            let said = format!("{full} is rejected by the policy in {}", file.display());
            d.docker(&["pull", &full]).exits(1).fails_with(&said);
            d.pouch(&["pull", &full]).exits(1).says(&said);
            d.docker(&["run", "--rm", &full]).exits(125).fails_with(&said);
            let (image, tag) = full.rsplit_once(':').unwrap();
            let path = format!("/images/create?fromImage={image}&tag={tag}");
            let answer = Connection::send(&d.socket(), "POST", &path, "text/plain", b"").answer();
            assert!(answer.is(403).message().starts_with(&said));
        }
        // The registry is not even asked.
        d.docker(&["pull", "127.0.0.1:1/none"]).fails_with("rejected by the policy");
        let archive = docker_archive("loaded:1", busybox(), &json!({}));
        d.docker_with(&["load"], &archive).exits(1).says("an archive of docker is rejected by");
        assert_eq!(images(d), before);

        let open = format!("{host}/open/a:1");
        assert_eq!(d.docker(&["run", "--rm", &open]).ok(), "open/a:1");
        d.docker(&["rmi", &open]).check();
        let mut archive = Archive::busybox();
        archive.file("extra", 0o644, b"imported");
        d.import("imported", &archive.finish(), &[]);
    });
}

#[test]
fn only_a_good_signature_opens_a_signed_scope() {
    let Some(desk) = Desk::new() else { return };
    let host = Registry::HOST;
    let (key, other) = (desk.key("key"), desk.key("other"));
    let signed = |identity: Value| json!([{"type": "sigstoreSigned", "keyPath": key, "signedIdentity": identity}]);
    let exact = json!({"type": "matchRepoDigestOrExact"});
    desk.write(&json!({
        format!("{host}/app"): signed(exact.clone()),
        format!("{host}/cosign"): signed(json!({"type": "matchRepository"})),
        format!("{host}/two"): [
            {"type": "sigstoreSigned", "keyPath": key},
            {"type": "sigstoreSigned", "keyPaths": [other]},
        ],
    }));
    Host::new().flags(&[&desk.flag()]).run(|d| {
        let Some(registry) = Registry::start(d) else { return };
        let name = |short: &str| format!("{host}/{short}");
        let refused = |short: &str, why: &str| {
            let before = images(d);
            d.docker(&["pull", &name(short)]).exits(1).fails_with(why);
            assert_eq!(images(d), before, "{short}");
        };
        let good = push(d, &registry, "app:good");
        refused("app:good", "a signature is required, and the image has none");
        attach(d, &desk, ("app", &good), ("key", &name("app:good"), &good));
        assert_eq!(d.docker(&["run", "--rm", &name("app:good")]).ok(), "app:good");
        let by_digest = format!("{}@{good}", name("app"));
        d.docker(&["rmi", "-f", &name("app:good")]).check();
        d.pouch(&["pull", &by_digest]).check();
        d.docker(&["rmi", &by_digest]).check();

        let wrong = push(d, &registry, "app:wrong");
        attach(d, &desk, ("app", &wrong), ("other", &name("app:wrong"), &wrong));
        refused("app:wrong", "signature 1 was not made by a trusted key");
        attach(d, &desk, ("app", &wrong), ("key", &name("app:good"), &good));
        refused("app:wrong", &format!("signature 1 is for the digest {good}"));
        attach(d, &desk, ("app", &wrong), ("key", &name("app:good"), &wrong));
        refused("app:wrong", &format!("signature 1 is for \"{}\"", name("app:good")));
        attach(d, &desk, ("app", &wrong), ("key", &name("app"), &wrong));
        refused("app:wrong", "signature 1 is for");

        // cosign names no tag, and signs an index alone.
        let manifest = push(d, &registry, "cosign:1");
        let (_, _, raw) = ask(d, &format!("GET /v2/cosign/manifests/{manifest}"), "", b"");
        let mut entry = describe("application/vnd.docker.distribution.manifest.v2+json", &raw);
        entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        let index = index.to_string();
        put(d, "/v2/cosign/manifests/many", OCI_INDEX, index.as_bytes());
        refused("cosign:many", "the image has none");
        let digest = digest_of(d, "cosign:many");
        attach(d, &desk, ("cosign", &digest), ("key", &name("cosign"), &digest));
        d.docker(&["pull", &name("cosign:many")]).check();
        d.docker(&["rmi", &name("cosign:many")]).check();
        // Of the index, not of the manifest by itself.
        refused("cosign:1", "the image has none");
        attach(d, &desk, ("cosign", &manifest), ("key", &name("cosign"), &manifest));
        d.docker(&["pull", &name("cosign:1")]).check();

        // Two signers, and one of them has not signed yet.
        let both = push(d, &registry, "two:1");
        attach(d, &desk, ("two", &both), ("key", &name("two:1"), &both));
        refused("two:1", "signature 1 was not made by a trusted key");
    });
}

#[test]
fn images_that_are_here_stay_and_a_pull_is_checked_again() {
    let Some(desk) = Desk::new() else { return };
    let host = Registry::HOST;
    let accept = json!({host: [{"type": "insecureAcceptAnything"}]});
    let reject = json!({host: [{"type": "reject"}]});
    desk.write(&accept);
    Host::new().flags(&[&desk.flag()]).run(|d| {
        let Some(registry) = Registry::start(d) else { return };
        push(d, &registry, "app:1");
        let name = format!("{host}/app:1");
        d.docker(&["pull", &name]).check();
        desk.write(&reject);
        d.docker(&["pull", &name]).check();
        let reload = |what: &str| {
            let times = || d.log().matches(what).count();
            let before = times();
            d.signal(Signal::HUP);
            eventually("the log tells of the reload", || times() > before);
        };
        reload("images are checked by a policy");
        d.docker(&["pull", &name]).fails_with("rejected by the policy");
        assert_eq!(d.docker(&["run", "--rm", &name]).ok(), "app:1");
        // A file that cannot be honoured, or is gone, changes nothing.
        std::fs::write(desk.path("policy.json"), "{\"default\": 1}").unwrap();
        reload("the image policy was not reloaded");
        std::fs::remove_file(desk.path("policy.json")).unwrap();
        reload("the image policy was not reloaded");
        d.docker(&["pull", &name]).fails_with("rejected by the policy");
        desk.write(&accept);
        reload("images are checked by a policy");
        d.docker(&["pull", &name]).check();
    });
}

#[test]
fn a_policy_that_cannot_be_honoured_means_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.json");
    let start = |words: &[&str]| {
        let mut command = Command::new(program("pouchd"));
        let at = |name: &str| dir.path().join(name);
        command.arg("--data-root").arg(at("d")).arg("--exec-root").arg(at("x"));
        command.arg("--pidfile").arg(at("pid")).arg("--config-file").arg(at("config.json"));
        command.arg("-H").arg(format!("unix://{}", at("s").display())).args(words);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    std::fs::write(dir.path().join("config.json"), config(&policy)).unwrap();
    let unknown = json!({
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {"registry.example.com": [{"type": "signedBySomebody"}]}},
    });
    for (text, want) in [
        (None, "No such file"),
        (Some("{".to_owned()), "line 1, column 1"),
        (
            Some(unknown.to_string()),
            "transports.docker[\"registry.example.com\"][0].type: \"signedBySomebody\" is unknown",
        ),
    ] {
        if let Some(text) = &text {
            std::fs::write(&policy, text).unwrap();
        }
        for words in [&[][..], &["--validate"]] {
            let (code, said) = start(words);
            assert_eq!(code, Some(1), "{text:?}: {said}");
            assert!(said.contains(&*policy.display().to_string()), "{said}");
            assert!(said.contains(want), "{said}");
        }
    }
    assert!(!dir.path().join("d").exists(), "it was refused before anything was made");
    let (code, said) = start(&["--validate", "--image-policy="]);
    assert_eq!(code, Some(0), "{said}");
}

fn config(policy: &Path) -> String {
    json!({"image-policy": policy}).to_string()
}
