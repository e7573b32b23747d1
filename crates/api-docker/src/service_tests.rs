//! The protocol over real sockets, with routes that need no engine.

use std::time::Duration;

use axum::Json;
use axum::routing::{get, post};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::http::Query;
use crate::server::{Hangup, Listener};
use crate::stream::Framing;
use crate::stream::detach::DetachKeys;
use crate::stream::hijack::{Hijack, Sessions, Streams, Terms};

async fn echo(
    sessions: Sessions,
    hijack: Hijack,
    query: Query,
) -> crate::http::ApiResult<Response> {
    let wants_input = query.flag("stdin");
    let terms = Terms {
        version: ApiVersion::MAX,
        framing: Framing::of_tty(query.flag("tty")),
        detach: DetachKeys::default(),
        wants_input,
    };
    hijack.respond(terms, sessions, async move {
        if !wants_input {
            return Ok(Streams { output: Box::new(&b"output"[..]), input: None, settled: None });
        }
        let (ours, process) = tokio::io::duplex(1024);
        let (mut read, mut write) = tokio::io::split(process);
        // Says back what it heard once its input ends, as `cat | sort` would.
        tokio::spawn(async move {
            let mut heard = Vec::new();
            read.read_to_end(&mut heard).await.unwrap();
            write.write_all(&heard).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let (output, input) = tokio::io::split(ours);
        Ok(Streams { output: Box::new(output), input: Some(Box::new(input)), settled: None })
    })
}

/// Streams nothing until its client is gone.
async fn quiet(hangups: tokio::sync::mpsc::Sender<()>) -> Response {
    struct Told(tokio::sync::mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.try_send(()).unwrap();
        }
    }
    let told = Told(hangups);
    let never = futures::stream::once(async move {
        let _told = told;
        std::future::pending::<Result<bytes::Bytes, std::convert::Infallible>>().await
    });
    Response::new(Body::from_stream(never))
}

struct Server {
    path: std::path::PathBuf,
    closing: CancellationToken,
    tracker: TaskTracker,
    hangups: tokio::sync::mpsc::Receiver<()>,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn service(router: Router) -> Service {
    Service::new(router, "1.2.3", None, vec!["https://ours".to_owned()])
}

fn start() -> Server {
    let (closing, tracker) = (CancellationToken::new(), TaskTracker::new());
    let sessions = Sessions { tracker: tracker.clone(), closing: closing.clone() };
    let (hung, hangups) = tokio::sync::mpsc::channel(8);
    let router = Router::new()
        .route("/fine", get(|version: ApiVersion| async move { Json(version.to_string()) }))
        .route("/bad", get(|| async { ApiError::invalid("no \"such\" thing") }))
        .route("/same", post(|| async { ApiError::new(StatusCode::NOT_MODIFIED, "") }))
        .route("/quiet", get(move || quiet(hung.clone())))
        .route("/attach", post(move |hijack, query| echo(sessions.clone(), hijack, query)));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = Listener::unix(&path, None).unwrap();
    let serving =
        crate::server::serve(service(router), vec![listener], tracker.clone(), closing.clone());
    let task = tokio::spawn(serving);
    Server { path, closing, tracker, hangups, task, _dir: dir }
}

impl Server {
    /// Sends bytes and reads to the end.
    async fn talk(&self, bytes: &str) -> String {
        let mut client = UnixStream::connect(&self.path).await.unwrap();
        client.write_all(bytes.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).await.unwrap();
        String::from_utf8(reply).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.talk(&format!("GET {path} HTTP/1.1\r\nHost: d\r\n\r\n")).await
    }

    /// Waits until only the accept loop's tasks are left.
    async fn settled(&self) {
        for _ in 0..100 {
            if self.tracker.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} tasks are left", self.tracker.len());
    }
}

async fn read_until(client: &mut UnixStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        seen.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn ping_and_fixed_headers() {
    let server = start();
    let reply = server.talk("HEAD /_ping HTTP/1.1\r\nHost: d\r\n\r\n").await.to_ascii_lowercase();
    for wanted in [
        "http/1.1 200 ok\r\n",
        "server: docker/1.2.3 (linux)\r\n",
        "api-version: 1.51\r\n",
        "ostype: linux\r\n",
        "docker-experimental: false\r\n",
        "builder-version: 1\r\n",
        "swarm: inactive\r\n",
        "cache-control: no-cache, no-store, must-revalidate\r\n",
        "pragma: no-cache\r\n",
        "content-length: 0\r\n",
        "content-type: text/plain; charset=utf-8\r\n",
    ] {
        assert!(reply.contains(wanted), "{wanted} in {reply}");
    }
    assert!(reply.ends_with("\r\n\r\n"));
    assert!(server.get("/v1.41/_ping").await.ends_with("\r\n\r\nOK"));
    let reply = server.get("/nothing").await.to_ascii_lowercase();
    assert!(reply.starts_with("http/1.1 404") && reply.contains("api-version: 1.51\r\n"));
}

#[tokio::test]
async fn versions_and_errors() {
    let server = start();
    assert!(server.get("/fine").await.ends_with("\"1.51\""));
    assert!(server.get("/v1.30/fine?x=1").await.ends_with("\"1.30\""));
    let old = server.get("/v1.12/fine").await;
    assert!(old.starts_with("HTTP/1.1 400") && old.contains("client version 1.12 is too old"));
    assert!(server.get("/v1.99/_ping").await.contains("client version 1.99 is too new"));
    let bad = server.get("/bad").await;
    assert!(bad.contains("content-type: application/json"), "{bad}");
    assert!(bad.ends_with("{\"message\":\"no \\\"such\\\" thing\"}\n"));
    let same = server.talk("POST /same HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(same.starts_with("HTTP/1.1 304") && same.ends_with("\r\n\r\n"));
    let method = server.talk("DELETE /fine HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(method.starts_with("HTTP/1.1 404") && method.contains("page not found"));
}

#[tokio::test]
async fn a_hijack_carries_pipelined_input_and_half_closes() {
    let server = start();
    let reply = server
        .talk(
            "POST /v1.43/attach?stdin=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n\
             Upgrade: tcp\r\n\r\nearly words",
        )
        .await;
    assert!(reply.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{reply}");
    let lower = reply.to_ascii_lowercase();
    assert!(lower.contains("content-type: application/vnd.docker.multiplexed-stream\r\n"));
    assert!(lower.contains("connection: upgrade\r\n") && lower.contains("upgrade: tcp\r\n"));
    assert!(reply.ends_with("\r\n\r\nearly words"), "{reply}");
    server.settled().await;
}

#[tokio::test]
async fn a_hijack_without_upgrade_is_raw_and_has_no_input() {
    let server = start();
    let reply = server.talk("POST /attach HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(reply.contains("200 OK\r\n") && !reply.contains("chunked"), "{reply}");
    assert!(reply.ends_with("\r\n\r\noutput"), "{reply}");
    let refused = server.talk("POST /attach?stdin=1 HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("Upgrade: tcp"));
}

#[tokio::test]
async fn departed_clients_leave_nothing_behind() {
    let mut server = start();
    let attach = "POST /attach?stdin=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n\
                  Upgrade: tcp\r\n\r\n";
    // At each step of the protocol: half a request, a request, an upgrade, a stream.
    for _ in 0..20 {
        let mut half = UnixStream::connect(&server.path).await.unwrap();
        half.write_all(&attach.as_bytes()[..20]).await.unwrap();
        let mut early = UnixStream::connect(&server.path).await.unwrap();
        early.write_all(attach.as_bytes()).await.unwrap();
        drop((half, early));
        let mut late = UnixStream::connect(&server.path).await.unwrap();
        late.write_all(attach.as_bytes()).await.unwrap();
        read_until(&mut late, "\r\n\r\n").await;
    }
    let mut waiting = UnixStream::connect(&server.path).await.unwrap();
    waiting.write_all(b"GET /quiet HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
    let head = read_until(&mut waiting, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK"), "the header comes before the first byte");
    drop(waiting);
    let heard = tokio::time::timeout(Duration::from_secs(5), server.hangups.recv());
    assert_eq!(heard.await.unwrap(), Some(()));
    server.settled().await;
}

#[tokio::test]
async fn a_refused_upload_is_told_why() {
    let server = start();
    let mut client = UnixStream::connect(&server.path).await.unwrap();
    let size = 4 << 20;
    let head = format!("POST /bad HTTP/1.1\r\nHost: d\r\nContent-Length: {size}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    // Fails with a broken pipe when the server closes on the rest.
    client.write_all(&vec![b'x'; size]).await.unwrap();
    let reply = read_until(&mut client, "\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 404"), "{reply}");
}

#[tokio::test]
async fn headers_are_capped() {
    let server = start();
    let long = "x".repeat(crate::limits::HEADERS);
    let reply = server.talk(&format!("GET /fine HTTP/1.1\r\nHost: d\r\nA: {long}\r\n\r\n")).await;
    assert!(reply.starts_with("HTTP/1.1 431"), "{reply}");
}

#[tokio::test]
async fn closing_ends_streams_and_removes_the_socket() {
    let server = start();
    let mut idle = UnixStream::connect(&server.path).await.unwrap();
    let mut waiting = UnixStream::connect(&server.path).await.unwrap();
    waiting.write_all(b"POST /attach?stdin=1 HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut waiting, "\r\n\r\n").await;
    server.closing.cancel();
    let mut rest = Vec::new();
    waiting.read_to_end(&mut rest).await.unwrap();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    tokio::time::timeout(Duration::from_secs(3), server.task).await.unwrap().unwrap();
    assert!(!server.path.exists());
}

#[tokio::test]
async fn foreign_origins_are_refused_on_the_network_only() {
    let service = service(Router::new().route("/fine", get(|| async { "fine" })));
    let status = |transport, origin: Option<&'static str>| {
        let service = service.clone();
        async move {
            let mut request = Request::get("/fine");
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            let mut request = request.body(Body::empty()).unwrap();
            request.extensions_mut().insert(transport);
            request.extensions_mut().insert(Hangup::default());
            service.call(request).await.status().as_u16()
        }
    };
    assert_eq!(status(Transport::Network, Some("https://evil")).await, 403);
    assert_eq!(status(Transport::Network, Some("https://ours")).await, 200);
    assert_eq!(status(Transport::Network, None).await, 200);
    assert_eq!(status(Transport::Local, Some("https://evil")).await, 200);
}

#[tokio::test]
async fn calls_are_measured_by_route() {
    let (sender, receiver) = std::sync::mpsc::sync_channel(4);
    let record = move |name: &str, status: u16, _| sender.send((name.to_owned(), status)).unwrap();
    let telemetry = Telemetry {
        record: Arc::new(record),
        encode: Arc::new(|| Box::pin(async { "# EOF\n".to_owned() })),
    };
    let router = Router::new().route("/containers/{id}/json", get(|| async { "x" }));
    let service = Service::new(router, "1", Some(telemetry), vec![]);
    let call = |path: &'static str| {
        let service = service.clone();
        async move { service.call(Request::get(path).body(Body::empty()).unwrap()).await }
    };
    call("/v1.41/containers/abc/json").await;
    call("/nope").await;
    assert_eq!(receiver.try_recv().unwrap(), ("GET /containers/{id}/json".to_owned(), 200));
    assert!(receiver.try_recv().is_err(), "paths that clients make up are no series");
    let text = axum::body::to_bytes(call("/metrics").await.into_body(), 99).await.unwrap();
    assert_eq!(text, "# EOF\n");
}

#[tokio::test]
async fn metrics_have_an_address_of_their_own() {
    let telemetry = Telemetry {
        record: Arc::new(|_, _, _| {}),
        encode: Arc::new(|| Box::pin(async { "pouch_up 1\n".to_owned() })),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closing = CancellationToken::new();
    let server = tokio::spawn(crate::serve_metrics(listener, telemetry, closing.clone()));
    let get = |path: &'static str| async move {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.unwrap();
        reply
    };
    let reply = get("/metrics").await;
    assert!(reply.contains("openmetrics-text") && reply.ends_with("pouch_up 1\n"), "{reply}");
    for path in ["/_ping", "/info", "/containers/json", "/metrics/x"] {
        assert!(get(path).await.starts_with("HTTP/1.1 404"), "{path}");
    }
    closing.cancel();
    tokio::time::timeout(Duration::from_secs(3), server).await.unwrap().unwrap();
}
