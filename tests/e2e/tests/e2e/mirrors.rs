//! Mirrors as operators configure them: whatever one of them does, the pull succeeds with the next
//! source, soon; and nobody but the registry itself ever sees its credentials.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pouch_testkit::{
    Daemon, Fault, FaultProxy, Netns, Registry, RegistryOptions, Shelf, busybox, daemon, dead_port,
    describe, eventually,
};
use serde_json::{Value, json};

use crate::pull_faults::{layer, registry};

/// What a bad mirror may cost, as the daemon counts it, and room for a busy machine.
const OVERHEAD: Duration = Duration::from_secs(2 + 8);

/// Starts the daemon anew with a configuration that has directories of this test in it.
fn configure(d: &mut Daemon, mut config: Value) {
    for (key, name) in [("registry-hosts-dirs", "hosts"), ("registry-certs-dirs", "certs")] {
        let dir = d.path(name);
        let _ = std::fs::create_dir(&dir);
        config[key] = json!([dir]);
    }
    d.stop();
    std::fs::write(d.path("config.json"), config.to_string()).unwrap();
    d.start_again();
}

/// Writes the `hosts.toml` of a registry.
fn write_hosts(d: &Daemon, registry: &str, text: &str) {
    let dir = d.path("hosts").join(registry);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
}

fn host(url: &str) -> String {
    format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n")
}

/// An image that says so: a layer that is here, one that is not, and a configuration.
fn shelf() -> Shelf {
    let mut shelf = Shelf::new();
    let noise = layer("noise", 2 << 20, 1);
    for repository in ["team/app", "library/app"] {
        shelf.image(repository, "1", &[busybox(), &noise], &json!({"Cmd": ["echo", "pulled"]}));
    }
    shelf
}

/// Removes, pulls and runs the image; how long the pull took.
#[track_caller]
fn pull(d: &Daemon, name: &str, what: &str) -> Duration {
    let began = Instant::now();
    let pull = d.docker(&["pull", name]);
    let took = began.elapsed();
    assert_eq!(pull.code(), 0, "{what}: {}", pull.stderr);
    assert_eq!(d.docker(&["run", "--rm", name]).ok(), "pulled", "{what}");
    d.docker(&["rmi", name]).check();
    took
}

fn header(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_owned())]
}

/// Everything that mirrors are known to do, with the requests it happens to.
fn misdeeds(
    mirror: &FaultProxy,
    elsewhere: &FaultProxy,
) -> Vec<(&'static str, &'static str, Fault)> {
    let page = b"<html><body>Please log in</body></html>".to_vec();
    let zeros = format!("sha256:{}", "0".repeat(64));
    let slow = Fault::Drip(100, Duration::from_millis(100));
    vec![
        ("never answers", "", Fault::Hang),
        ("gives 1 kB/s", "", slow.clone()),
        ("gives 1 kB/s of each blob", "blobs", slow),
        ("hangs after the headers", "", Fault::Stall(0)),
        ("hangs in a blob", "blobs", Fault::Stall(700)),
        ("breaks off", "blobs", Fault::Cut(700)),
        ("ends early and says that this is all", "blobs", Fault::Truncate(700)),
        ("ends a manifest early", "manifests", Fault::Truncate(100)),
        ("sends other bytes of the same length", "blobs", Fault::Flip(600)),
        ("sends another manifest", "manifests", Fault::Flip(60)),
        ("says another digest", "manifests", Fault::Header("docker-content-digest".into(), zeros)),
        ("shows a login page", "", Fault::Answer(200, header("content-type", "text/html"), page)),
        ("fails", "", Fault::Status(500, Vec::new())),
        ("is overloaded", "", Fault::Status(503, header("retry-after", "3600"))),
        ("has had enough", "", Fault::Status(429, header("retry-after", "3600"))),
        (
            "wants a password",
            "",
            Fault::Status(401, header("www-authenticate", "Basic realm=\"x\"")),
        ),
        ("refuses", "", Fault::Status(403, Vec::new())),
        ("has nothing", "", Fault::Status(404, Vec::new())),
        ("redirects to itself", "", Fault::Redirect(mirror.url())),
        ("redirects to where nothing is", "", Fault::Redirect(elsewhere.url())),
        ("compresses what it should not", "", Fault::Gzip),
    ]
}

#[test]
fn whatever_a_mirror_does_the_pull_succeeds_soon() {
    daemon(|d| {
        configure(d, json!({}));
        let shelf = Arc::new(shelf());
        let origin = registry(d, &shelf);
        let nothing = registry(d, &Arc::new(Shelf::new()));
        let name = format!("{}/team/app:1", origin.host());
        let base = pull(d, &name, "without a mirror");
        println!("{:>6.2} s without a mirror", base.as_secs_f32());
        let check = |what: &str, mirror: &str| {
            write_hosts(d, &origin.host(), &host(mirror));
            let took = pull(d, &name, what);
            let overhead = took.saturating_sub(base);
            assert!(overhead <= OVERHEAD, "a mirror that {what} costs {overhead:?}");
            overhead.as_secs_f32()
        };
        let overhead = check("is not there", &format!("http://127.0.0.1:{}", dead_port()));
        println!("{overhead:>6.2} s more: is not there");
        let overhead = check("no packet reaches", "http://10.99.99.99:5000");
        println!("{overhead:>6.2} s more: no packet reaches");
        let number = misdeeds(&nothing, &nothing).len();
        for index in 0..number {
            // Each has a name of its own, so that nobody remembers the one before.
            let mirror = registry(d, &shelf);
            let (what, part, fault) = misdeeds(&mirror, &nothing).remove(index);
            mirror.fault("GET", part, usize::MAX, fault);
            let overhead = check(what, &mirror.url());
            let asked = mirror.count("GET", "");
            println!("{overhead:>6.2} s more, asked {asked} times: {what}");
            // Manifest, configuration and layer; a redirect to itself is followed five times for the
            // first of them.
            assert!((1..=6).contains(&asked), "a mirror that {what} is asked {asked} times");
        }
    });
}

#[test]
fn who_ends_a_resumed_layer_with_wrong_bytes_is_not_asked_again() {
    daemon(|d| {
        configure(d, json!({}));
        let shelf = Arc::new(shelf());
        let (origin, mirror) = (registry(d, &shelf), registry(d, &shelf));
        let name = format!("{}/team/app:1", origin.host());
        let noise = describe("", &layer("noise", 2 << 20, 1));
        let blob = noise["digest"].as_str().unwrap();
        origin.fault("GET", blob, 1, Fault::Stall(1 << 20));
        let mut client = d.docker_live(&["pull", &name]);
        eventually("half of the layer is there", || origin.bytes_sent() >= 1 << 20);
        client.kill();
        eventually("it is kept when the client is gone", || {
            let kept = std::fs::read_dir(d.data_root().join("content/ingest")).unwrap();
            kept.flatten().any(|file| file.metadata().is_ok_and(|file| file.len() >= 1 << 20))
        });
        write_hosts(d, &origin.host(), &host(&mirror.url()));
        mirror.fault("GET", blob, usize::MAX, Fault::Flip(1000));
        pull(d, &name, "from a liar");
        let asked = mirror.seen().into_iter().filter(|seen| seen.path.contains(blob));
        let ranges: Vec<_> = asked.map(|seen| seen.headers.get("range").cloned()).collect();
        assert!(matches!(&ranges[..], [Some(range)] if range != "bytes=0-"), "{ranges:?}");
    });
}

#[test]
fn mirrors_are_asked_in_order_for_what_they_may_and_with_their_headers() {
    daemon(|d| {
        configure(d, json!({}));
        let shelf = Arc::new(shelf());
        let (origin, first, second) =
            (registry(d, &shelf), registry(d, &shelf), registry(d, &shelf));
        let name = format!("{}/team/app:1", origin.host());
        write_hosts(
            d,
            &origin.host(),
            &format!(
                "[host.\"{}\"]\ncapabilities = [\"pull\"]\n[host.\"{0}\".header]\nx-key = \"k1\"\n\
                 [host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
                first.url(),
                second.url()
            ),
        );
        pull(d, &name, "by mirrors");
        // A tag is resolved by whom it may be; what has a digest comes from the first.
        assert_eq!(first.count("GET", "manifests/1"), 0);
        assert_eq!(second.count("GET", "manifests/1"), 1);
        assert_eq!((first.count("GET", "blobs"), second.count("GET", "blobs")), (2, 0));
        assert_eq!(origin.count("GET", "team"), 0);
        for seen in first.seen() {
            assert_eq!(seen.headers.get("x-key").map(String::as_str), Some("k1"));
            assert!(seen.path.contains("?ns=127.0.0.1"), "{}", seen.path);
        }
        assert!(second.seen().iter().all(|seen| !seen.headers.contains_key("x-key")));
        // The file is read at each pull.
        write_hosts(d, &origin.host(), "");
        pull(d, &name, "without");
        assert_eq!(origin.count("GET", "blobs"), 2);
    });
}

#[test]
fn registry_mirrors_stand_for_docker_hub() {
    daemon(|d| {
        let shelf = Arc::new(shelf());
        let (bad, good) = (registry(d, &shelf), registry(d, &shelf));
        bad.fault("GET", "", usize::MAX, Fault::Status(500, Vec::new()));
        let dead = format!("http://127.0.0.1:{}", dead_port());
        configure(d, json!({"registry-mirrors": [dead, bad.url(), good.url()]}));
        // The password for Docker Hub is not for mirrors.
        let auth = json!({"auths": {"https://index.docker.io/v1/": {"auth": "YWxpY2U6czNjcmV0"}}});
        std::fs::create_dir_all(d.path("home/.docker")).unwrap();
        std::fs::write(d.path("home/.docker/config.json"), auth.to_string()).unwrap();
        let took = pull(d, "team/app:1", "by registry-mirrors");
        println!("a dead and a failing mirror before the good one: {took:?}");
        pull(d, "app:1", "a library image");
        assert!(good.count("GET", "/v2/library/app/manifests/1") >= 1);
        let all = [bad.seen(), good.seen()].concat();
        assert!(all.iter().all(|seen| !seen.headers.contains_key("authorization")));
        // A registry of another name does not ask them.
        let other = registry(d, &shelf);
        let before = good.seen().len();
        pull(d, &format!("{}/team/app:1", other.host()), "of another registry");
        assert_eq!(good.seen().len(), before);
    });
}

/// SEC-30.
#[test]
fn the_password_stays_with_the_registry() {
    daemon(|d| {
        configure(d, json!({}));
        let open = Arc::new(shelf());
        let mut locked = shelf();
        locked.lock();
        let origin = registry(d, &Arc::new(locked));
        let (mirror, store, token_service) =
            (registry(d, &open), registry(d, &open), registry(d, &open));
        let name = format!("{}/team/app:1", origin.host());
        d.docker(&["pull", &name]).fails_with("docker login");
        let login = ["login", "-u", Shelf::USER, "--password-stdin", &origin.host()];
        d.docker_with(&login, b"wrong").fails_with("unauthorized");
        d.docker_with(&login, Shelf::PASSWORD.as_bytes()).check();

        // The registry sends elsewhere for blobs.
        origin.fault("GET", "blobs", usize::MAX, Fault::Redirect(store.url()));
        pull(d, &name, "by redirect");
        assert_eq!(store.count("GET", "blobs"), 2);
        origin.heal();
        // A mirror asks for the password, by itself and through a token service of its choice.
        let realm = format!("Bearer realm=\"{}/token\",service=\"x\"", token_service.url());
        for challenge in ["Basic realm=\"x\"", &realm] {
            let mirror = registry(d, &open);
            mirror.fault(
                "GET",
                "",
                usize::MAX,
                Fault::Status(401, header("www-authenticate", challenge)),
            );
            write_hosts(d, &origin.host(), &host(&mirror.url()));
            pull(d, &name, challenge);
            assert!(mirror.count("GET", "") > 0);
            assert_is_innocent(&mirror);
        }
        // A mirror that serves, and one that breaks off so that the registry goes on.
        write_hosts(d, &origin.host(), &host(&mirror.url()));
        pull(d, &name, "by the mirror");
        mirror.fault("GET", "blobs", usize::MAX, Fault::Cut(100_000));
        pull(d, &name, "by both");
        for other in [&mirror, &store, &token_service] {
            assert_is_innocent(other);
        }
        let shown = origin.seen().into_iter().filter(|seen| {
            seen.headers.get("authorization").is_some_and(|sent| sent == Shelf::AUTHORIZATION)
        });
        assert!(shown.count() > 0, "the registry itself never saw the password");
    });
}

/// Nothing that was ever sent there has to do with the password.
#[track_caller]
fn assert_is_innocent(proxy: &FaultProxy) {
    for seen in proxy.seen() {
        assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
        assert!(!seen.path.contains(Shelf::USER), "{seen:?}");
    }
}

/// A CA with its key, as PEM the first.
struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: rcgen::Issuer::new(params, key) }
    }

    /// Certificate and key for a name or address.
    fn issue(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[test]
fn a_private_ca_and_a_client_certificate_are_those_of_certs_d() {
    daemon(|d| {
        let (servers, clients) = (Authority::new(), Authority::new());
        let at = format!("{}:5443", Netns::ADDRESS);
        let options = RegistryOptions {
            tls: Some(servers.issue(Netns::ADDRESS)),
            client_ca: Some(clients.pem.clone()),
            ..RegistryOptions::default()
        };
        let Some(_registry) = Registry::start_at(d, &at, &options) else { return };
        configure(d, json!({}));
        let name = format!("{at}/team/app:1");
        d.import(&name, &layer("noise", 1000, 1), &[]);
        // Who it is cannot be known.
        let push = d.docker(&["push", &name]);
        push.fails_with("certificate");
        let dir = d.path("certs").join(&at);
        std::fs::create_dir(&dir).unwrap();
        let write = |name: &str, pem: &str| -> PathBuf {
            let path = dir.join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        write("ca.crt", &servers.pem);
        // It does not know who we are.
        assert_ne!(d.docker(&["push", &name]).code(), 0, "without a client certificate");
        let (cert, key) = clients.issue("pouch");
        let cert = write("client.cert", &cert);
        let half = d.docker(&["push", &name]);
        half.fails_with("client.key");
        write("client.key", &key);
        d.docker(&["push", &name]).check();
        d.docker(&["rmi", &name]).check();
        d.docker(&["pull", &name]).check();
        d.docker(&["rmi", &name]).check();
        // A stranger's certificate is none.
        let (stranger, its_key) = servers.issue("pouch");
        std::fs::write(cert, stranger).unwrap();
        write("client.key", &its_key);
        assert_ne!(d.docker(&["pull", &name]).code(), 0, "with a stranger's certificate");
    });
}

#[test]
fn insecure_registries_are_those_that_are_named() {
    daemon(|d| {
        let authority = Authority::new();
        let (tls, plain) = (format!("{}:5443", Netns::ADDRESS), format!("{}:5080", Netns::ADDRESS));
        let options = RegistryOptions {
            tls: Some(authority.issue(Netns::ADDRESS)),
            ..RegistryOptions::default()
        };
        let Some(_tls) = Registry::start_at(d, &tls, &options) else { return };
        let Some(_plain) = Registry::start_at(d, &plain, &RegistryOptions::default()) else {
            return;
        };
        let names = [format!("{tls}/app:1"), format!("{plain}/app:1")];
        for name in &names {
            d.import(name, &layer("noise", 1000, 1), &[]);
            assert_ne!(d.docker(&["push", name]).code(), 0, "{name} is trusted by itself");
            d.docker(&["rmi", name]).check();
        }
        for insecure in [json!([tls, plain]), json!(["10.213.0.0/24"])] {
            configure(d, json!({"insecure-registries": insecure}));
            for name in &names {
                d.import(name, &layer("noise", 1000, 1), &[]);
                d.docker(&["push", name]).check();
                d.docker(&["rmi", name]).check();
                d.docker(&["pull", name]).check();
                d.docker(&["rmi", name]).check();
            }
        }
    });
}
