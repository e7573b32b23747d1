//! What is at the socket is no containerd, or one that cannot be used, or has strange things in it.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pouch_containerd::remote::{Remote, RemoteConfig};
use pouch_containerd::*;
use pouch_types::{Classified as _, ErrorKind};

use crate::rig::*;

fn config(dir: &Path) -> RemoteConfig {
    RemoteConfig {
        socket: dir.join("c.sock"),
        namespace: "pouch".to_owned(),
        connections: std::num::NonZeroUsize::MIN,
        state: dir.join("state"),
        shim: "/nonexistent/shim".into(),
        owner: "here".to_owned(),
        patience: Duration::from_millis(700),
    }
}

/// What `Remote::open` says.
async fn refusal(config: RemoteConfig) -> (ErrorKind, String) {
    let error = Remote::open(config).await.unwrap_err();
    (error.kind(), pouch_types::error::chain(&error))
}

/// Answers of a gRPC server by the path of the call.
type Answers = fn(&str) -> std::result::Result<&'static [u8], &'static str>;

/// A gRPC server at the socket of `config`, until the test ends.
fn serve(config: &RemoteConfig, answers: Answers) {
    let listener = tokio::net::UnixListener::bind(&config.socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = move |request: http::Request<Incoming>| async move {
                let reply = http::Response::builder().header("content-type", "application/grpc");
                let reply = match answers(request.uri().path()) {
                    Ok(message) => {
                        let mut body = vec![0];
                        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                        body.extend(message);
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                        let body = Full::new(Bytes::from(body));
                        let body = body.with_trailers(async move { Some(Ok(trailers)) });
                        reply.body(body.boxed())
                    }
                    Err(message) => reply
                        .header("grpc-status", "12")
                        .header("grpc-message", message)
                        .body(Full::new(Bytes::new()).boxed()),
                };
                Ok::<_, Infallible>(reply.unwrap())
            };
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let service = hyper::service::service_fn(answer);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
}

#[tokio::test]
async fn a_missing_or_dead_socket_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (kind, text) = refusal(config(dir.path())).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.starts_with("containerd unavailable") && text.contains("c.sock"), "{text}");
    assert!(text.contains("No such file"), "{text}");

    drop(UnixListener::bind(dir.path().join("c.sock")).unwrap());
    let (kind, text) = refusal(config(dir.path())).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("c.sock") && text.contains("refused"), "{text}");

    let mut named = config(dir.path());
    named.namespace = "no/namespace".to_owned();
    assert!(refusal(named).await.1.contains("no/namespace"));
}

#[test]
fn a_socket_that_may_not_be_used_is_told_at_once() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut config = config(dir.path());
    config.patience = Duration::from_secs(600);
    let _listener = UnixListener::bind(&config.socket).unwrap();
    std::fs::set_permissions(&config.socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Of this thread alone.
    std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (kind, text) = runtime.block_on(within("the refusal", refusal(config)));
        assert_eq!(kind, ErrorKind::Denied);
        assert!(text.contains("c.sock") && text.contains("ermission denied"), "{text}");
    })
    .join()
    .unwrap();
}

#[tokio::test]
async fn servers_of_other_protocols_are_told() {
    for said in [&b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..], b"SSH-2.0-x\r\n"] {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("c.sock")).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 64]);
                let _ = stream.write_all(said);
            }
        });
        let (kind, text) = refusal(config(dir.path())).await;
        assert_eq!(kind, ErrorKind::Unavailable, "{text}");
        assert!(text.contains("c.sock"), "{text}");
    }
}

#[tokio::test]
async fn a_listener_that_says_nothing_is_not_waited_for_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(dir.path().join("c.sock")).unwrap();
    let (kind, text) = refusal(config(dir.path())).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("version: no answer within 10 s"), "{text}");
}

#[tokio::test]
async fn another_grpc_server_is_no_containerd() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    // It is not a matter of time.
    config.patience = Duration::from_secs(600);
    serve(&config, |_| Err("unknown service containerd.services.version.v1.Version"));
    let (kind, text) = within("the refusal", refusal(config)).await;
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("c.sock is not a containerd that can be used"), "{text}");
    assert!(text.contains("version.v1.Version"), "{text}");
}

#[tokio::test]
async fn a_containerd_without_a_service_that_is_needed_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.patience = Duration::from_secs(600);
    serve(&config, |path| match path {
        "/containerd.services.version.v1.Version/Version" => Ok(b"\x0a\x060.9.99"),
        _ => Err("unknown service containerd.services.events.v1.Events"),
    });
    let (kind, text) = within("the refusal", refusal(config)).await;
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("it lacks a service that is needed"), "{text}");
    assert!(text.contains("events.v1.Events"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_objects_in_the_namespace_are_passed_over() {
    let Some(mut rig) = Rig::new().await else { return };
    let (container, task) = rig.start(&["sleep", "1000"]).await;
    let owned = "dev.pouch.owner=here";
    let root = rig.dir.path().join("rootfs").display().to_string();
    let make = |id: &str, labels: &[&str]| {
        let mut words = vec!["-n", "pouch", "containers", "create", "--rootfs"];
        for label in labels {
            words.extend(["--label", label]);
        }
        words.extend([root.as_str(), id, "true"]);
        let _ = rig.containerd.ctr(&words);
    };
    // An id that is none of ours, nonsense in each of our labels, and somebody else's.
    make("not-an-id", &[owned]);
    let odd = ["dev.pouch.generation=x", "dev.pouch.stdio=keeper", "dev.pouch.exit-file=//"];
    make(&"e".repeat(64), &[&[owned][..], &odd].concat());
    make(&"f".repeat(64), &[]);
    rig.reopen().await;
    let loaded = rig.backend.load_all().await.unwrap();
    let mut ids: Vec<_> = loaded.iter().map(|l| l.container.id().to_string()).collect();
    ids.sort();
    let mut want = vec![container.id().to_string(), "e".repeat(64)];
    want.sort();
    assert_eq!(ids, want);
    let found = |id: &str| loaded.iter().find(|l| l.container.id().as_str() == id).unwrap();
    let LoadedTask::Running(adopted) = &found(container.id().as_str()).task else {
        panic!("it runs")
    };
    assert_eq!(adopted.pid(), task.pid());
    let odd = found(&"e".repeat(64));
    assert!(matches!(odd.task, LoadedTask::Orphaned));
    for loaded in &loaded {
        loaded.container.delete().await.unwrap();
    }
    // What is not ours stays where it is.
    let strange = ["not-an-id".to_owned(), "f".repeat(64)];
    let left = || rig.containerd.ctr(&["-n", "pouch", "containers", "ls", "-q"]);
    pouch_testkit::eventually("only the strange ones are left", || {
        let left = left();
        let mut lines: Vec<&str> = left.split_whitespace().collect();
        lines.sort_unstable();
        lines == [strange[1].as_str(), strange[0].as_str()]
    });
    for id in &strange {
        let _ = rig.containerd.ctr(&["-n", "pouch", "containers", "rm", id]);
    }
    rig.assert_empty();
}
