//! Exec and attach over SPDY.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;
use crate::spdy::test_client::Client;

const V4: &str = "v4.channel.k8s.io";

/// A client with the streams of a set, in the order of client-go.
struct Session {
    client: Client<TcpStream>,
    error: u32,
    stdin: u32,
    stdout: u32,
    stderr: u32,
}

impl Session {
    async fn open(url: &str, protocol: &str, streams: StreamSet) -> Self {
        let mut client = Client::connect(url, protocol).await.unwrap();
        let error = client.open_type("error").await;
        let mut ids = [0; 3];
        let wanted = [streams.stdin, streams.stdout, streams.stderr];
        for (id, (kind, wanted)) in
            ids.iter_mut().zip(["stdin", "stdout", "stderr"].iter().zip(wanted))
        {
            if wanted {
                *id = client.open_type(kind).await;
            }
        }
        let [stdin, stdout, stderr] = ids;
        Self { client, error, stdin, stdout, stderr }
    }
}

#[tokio::test]
async fn all_output_comes_before_the_exit_code() {
    let server = bind(Limits::default()).await;
    for (protocol, status) in [
        (
            V4,
            r#"{"status":"Failure","message":"command terminated with non-zero exit code: 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
        ),
        ("v3.channel.k8s.io", "command terminated with non-zero exit code: 3"),
        ("channel.k8s.io", "command terminated with non-zero exit code: 3"),
        ("v9.channel.k8s.io, v2.channel.k8s.io", "command terminated with non-zero exit code: 3"),
    ] {
        let url = exec(&server, OUTPUTS, Fake::says(&[(1, b"out"), (2, b"err"), (1, b"!")], 3));
        let mut session = Session::open(&url, protocol, OUTPUTS).await;
        let error = session.error;
        session.client.until(|client| !client.data(error).is_empty()).await;
        assert_eq!(session.client.text(session.stdout), "out!");
        assert_eq!(session.client.text(session.stderr), "err");
        session.client.drain().await;
        assert_eq!(session.client.text(error), status);
        assert!(session.client.gone_away);
        for id in [error, session.stdout, session.stderr] {
            assert!(session.client.streams[&id].finished);
        }
    }
    server.close().await;
}

#[tokio::test]
async fn the_process_starts_with_the_last_stream() {
    let server = bind(Limits::default()).await;
    let started = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&started);
    let process = Fake::new(move |mut socket, _| async move {
        flag.store(true, Ordering::SeqCst);
        socket.write_all(&frame(1, b"hi")).await?;
        Ok(0)
    });
    let url = exec(&server, ALL, process);
    let mut client = Client::connect(&url, V4).await.unwrap();
    let mut ids = Vec::new();
    for kind in ["stdout", "error", "stdin", "what?", "stdout"] {
        ids.push(client.open_type(kind).await);
    }
    client.until(|client| ids.iter().all(|id| client.streams.contains_key(id))).await;
    let answers: Vec<_> = ids.iter().map(|id| client.streams[id].replied).collect();
    assert_eq!(answers, [true, true, true, false, false], "unknown and second ones are refused");
    assert!(ids[3..].iter().all(|id| client.streams[id].reset));
    assert!(!started.load(Ordering::SeqCst));
    client.open_type("stderr").await;
    client.until(|client| client.data(ids[0]) == b"hi").await;
    client.drain().await;
    assert_eq!(client.text(ids[1]), r#"{"status":"Success"}"#);
    server.close().await;
}

#[tokio::test]
async fn a_client_without_its_streams_is_told_and_starts_nothing() {
    let limits = Limits { creation: Duration::from_millis(300), ..Limits::default() };
    let server = bind(limits).await;
    let url =
        server.issue(Request::exec(OUTPUTS, || async { panic!("started") }).unwrap()).unwrap();
    let mut client = Client::connect(&url, V4).await.unwrap();
    let error = client.open_type("error").await;
    client.open_type("stdout").await;
    client.drain().await;
    assert!(client.text(error).contains("timed out waiting for client to create streams"));
    server.close().await;
}

#[tokio::test]
async fn a_failed_start_and_a_panic_are_told() {
    let server = bind(Limits::default()).await;
    let failing =
        Request::exec(OUTPUTS, || async { Err(std::io::Error::other("no such container").into()) });
    let attaching = Request::attach(OUTPUTS, || async { panic!("bug") });
    for (request, text) in [
        (failing, "error executing command in container: no such container"),
        (attaching, "error attaching to container: task"),
    ] {
        let url = server.issue(request.unwrap()).unwrap();
        let mut session = Session::open(&url, V4, OUTPUTS).await;
        session.client.drain().await;
        let status = session.client.text(session.error);
        assert!(status.contains(text) && status.contains("InternalError"), "{status}");
    }
    server.close().await;
}

#[tokio::test]
async fn input_and_its_end_reach_the_process() {
    let server = bind(Limits::default()).await;
    let url = exec(&server, ALL, Fake::cat(0));
    let mut session = Session::open(&url, V4, ALL).await;
    let (stdin, stdout) = (session.stdin, session.stdout);
    session.client.send(stdin, b"one ").await;
    session.client.until(|client| client.data(stdout) == b"one ").await;
    session.client.ping(7).await;
    session.client.until(|client| client.pings.contains(&7)).await;
    session.client.send(stdin, b"two").await;
    session.client.finish(stdin).await;
    session.client.drain().await;
    assert_eq!(session.client.text(stdout), "one two");
    server.close().await;
}

#[tokio::test]
async fn a_process_that_takes_no_input_is_not_waited_for() {
    let server = bind(Limits::default()).await;
    let process = Fake::new(|mut socket, _| async move {
        let std = socket.into_std()?;
        std.shutdown(std::net::Shutdown::Read)?;
        socket = tokio::net::UnixStream::from_std(std)?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        socket.write_all(&frame(1, b"done")).await?;
        Ok(0)
    });
    let url = exec(&server, ALL, process);
    let mut session = Session::open(&url, V4, ALL).await;
    // More than all that may wait.
    session.client.send(session.stdin, &vec![0; 8 << 20]).await;
    session.client.drain().await;
    assert_eq!(session.client.text(session.stdout), "done");
    server.close().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_process_alone() {
    let server = bind(Limits::default()).await;
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    const SIZE: usize = 40 << 20;
    let process = Fake::new(move |mut socket, _| async move {
        let piece = frame(1, &vec![7; 64 * 1024 - 8]);
        while count.load(Ordering::SeqCst) < SIZE {
            socket.write_all(&piece).await?;
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
        Ok(0)
    });
    let mut slow = Session::open(&exec(&server, OUTPUTS, process), V4, OUTPUTS).await;
    // It stops by itself.
    let mut before = usize::MAX;
    while before != written.load(Ordering::SeqCst) || before == 0 {
        before = written.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < SIZE / 2, "{before} bytes wait for a client that does not read");
    let url = exec(&server, OUTPUTS, Fake::says(&[(1, b"other")], 0));
    let mut other = Session::open(&url, V4, OUTPUTS).await;
    other.client.drain().await;
    assert_eq!(other.client.text(other.stdout), "other");
    slow.client.drain().await;
    assert_eq!(slow.client.data(slow.stdout).len(), SIZE / 65536 * 65528);
    assert_eq!(slow.client.text(slow.error), r#"{"status":"Success"}"#);
    server.close().await;
}

#[tokio::test]
async fn a_process_that_does_not_read_stops_its_client_which_may_leave() {
    let server = bind(Limits { queued_bytes: 100_000, ..Limits::default() }).await;
    let ended = Arc::new(Notify::new());
    let notify = Arc::clone(&ended);
    let process = Fake::new(move |mut socket, _| async move {
        // Its output cannot be written once the session has ended.
        while socket.write_all(&frame(1, b".")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        notify.notify_one();
        Ok(0)
    });
    let mut session = Session::open(&exec(&server, ALL, process), V4, ALL).await;
    let stdin = session.stdin;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        loop {
            session.client.send(stdin, &[0; 30_000]).await;
            count.fetch_add(30_000, Ordering::SeqCst);
        }
    });
    let mut before = usize::MAX;
    while before != sent.load(Ordering::SeqCst) || before == 0 {
        before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Sockets' buffers, and the queue.
    assert!(before < 32 << 20, "{before}");
    sending.abort();
    let _ = sending.await;
    tokio::time::timeout(patience(), ended.notified()).await.unwrap();
    server.close().await;
}

#[tokio::test]
async fn a_peer_with_flow_control_is_given_what_it_has_room_for() {
    let server = bind(Limits::default()).await;
    let output = vec![b'x'; 200_000];
    let url = exec(
        &server,
        ALL,
        Fake::new(move |mut socket, _| async move {
            socket.write_all(&frame(1, &output)).await?;
            let mut input = Vec::new();
            socket.read_to_end(&mut input).await?;
            Ok(i32::from(input.len() != 100_000))
        }),
    );
    let mut client = Client::connect(&url, V4).await.unwrap();
    client.settings(10).await;
    let [error, stdin, stdout] = [
        client.open_type("error").await,
        client.open_type("stdin").await,
        client.open_type("stdout").await,
    ];
    client.open_type("stderr").await;
    client.until(|client| client.data(stdout).len() == 10).await;
    client.ping(1).await;
    client.until(|client| client.pings.contains(&1)).await;
    assert_eq!(client.data(stdout).len(), 10);
    client.window(stdout, 300_000).await;
    // The connection's window is another.
    client.until(|client| client.data(stdout).len() == 64 * 1024).await;
    client.ping(3).await;
    client.until(|client| client.pings.contains(&3)).await;
    assert_eq!(client.data(stdout).len(), 64 * 1024);
    client.window(0, 300_000).await;
    client.until(|client| client.data(stdout).len() == 200_000).await;
    // And it is told of the room that there is.
    client.send(stdin, &[0; 100_000]).await;
    client
        .until(|client| {
            [0, stdin]
                .iter()
                .all(|id| client.windows.get(id).is_some_and(|room| *room >= 64 * 1024))
        })
        .await;
    client.window(error, 300_000).await;
    client.finish(stdin).await;
    client.drain().await;
    assert_eq!(client.text(error), r#"{"status":"Success"}"#);
    server.close().await;
}

#[tokio::test]
async fn resizes_before_and_during_reach_the_terminal() {
    let server = bind(Limits::default()).await;
    let process = Fake::terminal(2);
    let sizes = process.sizes();
    let url = exec(&server, TERMINAL, process);
    let mut client = Client::connect(&url, V4).await.unwrap();
    let [error, stdin, resize] = [
        client.open_type("error").await,
        client.open_type("stdin").await,
        client.open_type("resize").await,
    ];
    client.send(resize, br#"{"Width":80,"Hei"#).await;
    client.send(resize, br#"ght":24}"#).await;
    let stdout = client.open_type("stdout").await;
    client.send(stdin, b"raw \x01\x00 bytes").await;
    client.until(|client| client.data(stdout) == b"raw \x01\x00 bytes").await;
    client.send(resize, br#"{"Width":132,"Height":43}"#).await;
    client.finish(stdin).await;
    client.drain().await;
    assert_eq!(*sizes.lock().unwrap(), [(80, 24), (132, 43)]);
    assert_eq!(client.text(error), r#"{"status":"Success"}"#);
    server.close().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_session_and_not_the_start() {
    let server = bind(Limits::default()).await;
    let (go, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (gate, told) = (Arc::clone(&go), Arc::clone(&ended));
    let request = Request::exec(ALL, move || async move {
        gate.notified().await;
        // It was not dropped half-way, and what it makes is let go.
        told.notify_one();
        Err("too late".into())
    });
    let url = server.issue(request.unwrap()).unwrap();
    let mut session = Session::open(&url, V4, ALL).await;
    let stderr = session.stderr;
    session.client.until(|client| client.streams.contains_key(&stderr)).await;
    drop(session);
    tokio::time::sleep(Duration::from_millis(100)).await;
    go.notify_one();
    tokio::time::timeout(patience(), ended.notified()).await.unwrap();
    server.close().await;
}

#[tokio::test]
async fn sleeping_sessions_and_those_of_a_closing_server_are_told() {
    let limits = Limits { idle: Duration::from_millis(400), ..Limits::default() };
    let silent = || Fake::new(|mut socket, _| async move { socket.read_u8().await.map(i32::from) });
    let server = bind(limits).await;
    let mut session = Session::open(&exec(&server, ALL, silent()), V4, ALL).await;
    session.client.drain().await;
    let status = session.client.text(session.error);
    assert!(status.contains("nothing moved on the connection for 400ms"), "{status}");
    server.close().await;

    let server = bind(Limits::default()).await;
    let mut session = Session::open(&exec(&server, ALL, silent()), V4, ALL).await;
    let stderr = session.stderr;
    session.client.until(|client| client.streams.contains_key(&stderr)).await;
    let url = exec(&server, ALL, silent());
    let closing = tokio::spawn(server.close());
    session.client.drain().await;
    let status = session.client.text(session.error);
    assert!(status.contains("the streaming server is closing"), "{status}");
    closing.await.unwrap();
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    assert!(TcpStream::connect(host).await.is_err());
}

#[tokio::test]
async fn broken_protocol_ends_the_connection_with_a_goodbye() {
    let server = bind(Limits::default()).await;
    let long_ping = [0x80, 3, 0, 6, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for garbage in [&[0x80, 9, 0, 1, 0, 0, 0, 0][..], &long_ping] {
        let url = exec(&server, ALL, Fake::cat(0));
        let mut session = Session::open(&url, V4, ALL).await;
        session.client.write(garbage).await;
        session.client.drain().await;
        assert!(session.client.gone_away);
    }
    server.close().await;
}

#[tokio::test]
async fn requests_that_fit_nothing_are_refused() {
    let server = bind(Limits::default()).await;
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    let url = || exec(&server, ALL, Fake::cat(0));
    let used = url();
    let wrong_kind = url().replace("/exec/", "/attach/");
    drop(Client::connect(&used, V4).await.unwrap());
    let bare = server.base_url();
    for (url, method, headers, status, says) in [
        (used, "POST", String::new(), 404, ""),
        (wrong_kind, "POST", String::new(), 404, ""),
        (format!("{bare}/exec/AAAAAAAAAAAAAAAAAAAAAAAA"), "GET", String::new(), 404, ""),
        (format!("{bare}/"), "GET", String::new(), 404, ""),
        (format!("{}/x", url()), "GET", String::new(), 404, ""),
        (url(), "PUT", String::new(), 405, ""),
        (url(), "POST", spdy.to_owned(), 400, ""),
        (url(), "POST", format!("X-Stream-Protocol-Version: {V4}\r\n"), 400, ""),
        (
            url(),
            "POST",
            format!("{spdy}X-Stream-Protocol-Version: v9.channel.k8s.io\r\n"),
            403,
            "x-accepted-stream-protocol-versions: v2.channel.k8s.io",
        ),
        (url(), "GET", "Connection: Upgrade\r\nUpgrade: websocket\r\n".to_owned(), 426, ""),
    ] {
        let (_, head) = request(&url, method, &headers).await;
        assert_eq!(head.status, status, "{method} {url} {headers:?}");
        assert!(head.text.contains(says), "{}", head.text);
    }
    server.close().await;
}
