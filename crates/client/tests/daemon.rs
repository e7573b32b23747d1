//! The client against a scripted daemon on a unix socket: what goes over the wire, when a
//! connection is kept, and how failures look.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pouch_client::{
    Attach, Channel, Client, ClientError, ClientOptions, Condition, Demultiplexer, Endpoint,
    Framing, ListContainers, Logs, PutArchive,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// A daemon that answers each request with what `answer` returns for its head; `None` closes.
struct Daemon {
    _directory: tempfile::TempDir,
    client: Client,
    connections: Arc<AtomicUsize>,
}

impl Daemon {
    fn start<F>(version: Option<&str>, answer: F) -> Self
    where
        F: Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (answer, counter) = (Arc::new(answer), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let answer = Arc::clone(&answer);
                tokio::spawn(serve(stream, move |head: &str| answer(head)));
            }
        });
        let mut options = ClientOptions::new(Endpoint::Unix(path));
        options.version = version.map(|text| text.parse().unwrap());
        Self { _directory: directory, client: Client::new(options).unwrap(), connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: UnixStream, answer: impl Fn(&str) -> Option<Vec<u8>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |n| n.trim().parse().unwrap());
        let mut body = vec![0u8; length];
        stream.read_exact(&mut body).await.unwrap();
        let text = format!("{head}{}", String::from_utf8_lossy(&body));
        let Some(reply) = answer(&text) else { return };
        stream.write_all(&reply).await.unwrap();
        if reply.starts_with(b"HTTP/1.1 101") {
            // Echo until our input ends, then say goodbye: output goes on after the half-close.
            let mut input = Vec::new();
            stream.read_to_end(&mut input).await.unwrap();
            let out = [&input[..], b"bye"].concat();
            let mut frame = vec![1, 0, 0, 0];
            frame.extend_from_slice(&u32::try_from(out.len()).unwrap().to_be_bytes());
            stream.write_all(&[&frame[..], &out].concat()).await.unwrap();
            return;
        }
    }
}

fn reply(status: &str, body: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

#[tokio::test]
async fn the_version_is_negotiated_once_and_connections_are_kept() {
    let daemon = Daemon::start(None, |head| {
        if head.starts_with("head /_ping") {
            return Some(
                b"HTTP/1.1 200 OK\r\nApi-Version: 1.30\r\nContent-Length: 0\r\n\r\n".to_vec(),
            );
        }
        assert!(head.starts_with("get /v1.30/containers/json?all=1&limit=3 http/1.1"), "{head}");
        reply("200 OK", r#"[{"Id":"a","Names":["/x"]}]"#)
    });
    let list = ListContainers { all: true, limit: Some(3), ..ListContainers::default() };
    for _ in 0..3 {
        let containers = daemon.client.containers(&list).await.unwrap();
        assert_eq!(containers[0].names, ["/x"]);
    }
    assert_eq!(daemon.client.version().await.unwrap().to_string(), "1.30");
    assert_eq!(daemon.connections(), 1);
}

#[tokio::test]
async fn a_daemon_without_head_is_asked_with_get() {
    let daemon = Daemon::start(None, |head| {
        if head.starts_with("head ") {
            Some(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec())
        } else {
            Some(b"HTTP/1.1 200 OK\r\nApi-Version: 9.99\r\nContent-Length: 2\r\n\r\nOK".to_vec())
        }
    });
    // A newer daemon is spoken to in our own newest version.
    assert_eq!(daemon.client.version().await.unwrap(), pouch_client::ApiVersion::NEWEST);
}

#[tokio::test]
async fn refusals_keep_status_and_message() {
    let daemon = Daemon::start(Some("1.41"), |head| match head {
        _ if head.contains("/missing/") => {
            reply("404 Not Found", r#"{"message":"No such container: missing"}"#)
        }
        _ if head.contains("/odd/") => reply("500 Internal Server Error", "<html>proxy</html>"),
        _ if head.contains("/empty/") => reply("502 Bad Gateway", ""),
        _ => reply("304 Not Modified", ""),
    });
    let client = &daemon.client;
    let missing = client.inspect_container("missing").await.unwrap_err();
    assert!(missing.is_not_found() && missing.is_from_daemon());
    assert_eq!(missing.to_string(), "No such container: missing");
    assert_eq!(
        client.inspect_container("odd").await.unwrap_err().to_string(),
        "<html>proxy</html>"
    );
    let empty = client.inspect_container("empty").await.unwrap_err();
    assert_eq!(empty.to_string(), "the daemon answered 502 Bad Gateway");
    // Already started is as good as started.
    client.start_container("running", "").await.unwrap();
    assert_eq!(daemon.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_daemon_closed_is_replaced() {
    // Each connection serves one request and is closed by the daemon without a word.
    let daemon = Daemon::start(Some("1.41"), {
        let served = AtomicUsize::new(0);
        move |_| {
            let n = served.fetch_add(1, Ordering::SeqCst);
            assert!(n < 10);
            Some(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]".to_vec())
        }
    });
    for _ in 0..3 {
        daemon.client.containers(&ListContainers::default()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(daemon.connections(), 3);
    let dead = Daemon::start(Some("1.41"), |_| None);
    let error = dead.client.containers(&ListContainers::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Transport { .. }), "{error:?}");
}

#[tokio::test]
async fn attach_is_a_duplex_with_half_close() {
    let daemon = Daemon::start(Some("1.42"), |head| {
        assert!(
            head.starts_with("post /v1.42/containers/c/attach?stdin=1&stdout=1&stream=1 "),
            "{head}"
        );
        assert!(
            head.contains("\r\nupgrade: tcp\r\n") && head.contains("\r\nconnection: upgrade\r\n")
        );
        Some(
            b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\
              Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
                .to_vec(),
        )
    });
    let attach = Attach { stdin: true, stdout: true, stream: true, ..Attach::default() };
    let stream = daemon.client.attach("c", &attach).await.unwrap();
    assert_eq!(stream.announced(), Some(Framing::Multiplexed));
    let (reader, mut writer) = stream.split();
    writer.write_all(b"hello ").await.unwrap();
    writer.shutdown().await.unwrap();
    let mut frames = Demultiplexer::new(reader);
    let mut out = Vec::new();
    while let Some((channel, bytes)) = frames.next().await.unwrap() {
        assert_eq!(channel, Channel::Stdout);
        out.extend_from_slice(&bytes);
    }
    assert_eq!(out, b"hello bye");
}

#[tokio::test]
async fn a_refused_attach_is_an_error_and_not_a_stream() {
    let daemon = Daemon::start(Some("1.42"), |_| {
        reply("409 Conflict", r#"{"message":"container c is paused"}"#)
    });
    let error = daemon.client.attach("c", &Attach::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "container c is paused");
}

#[tokio::test]
async fn a_wait_has_begun_when_its_headers_are_here() {
    let daemon = Daemon::start(Some("1.42"), |head| {
        assert!(head.contains("/wait?condition=next-exit "), "{head}");
        Some(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n{\"StatusCode\":137}\r\n0\r\n\r\n".to_vec())
    });
    let wait = daemon.client.wait_container("c", Condition::NextExit).await.unwrap();
    assert_eq!(wait.result().await.unwrap().status_code, 137);
}

#[tokio::test]
async fn progress_and_logs_are_streams() {
    let daemon = Daemon::start(Some("1.42"), |head| {
        if head.contains("/logs?") {
            assert!(head.contains("stdout=1&follow=1&tail=5"), "{head}");
            return reply("200 OK", "\u{1}\0\0\0\0\0\0\u{2}hi");
        }
        let lines = "{\"status\":\"a\",\"id\":\"1\"}\r\n\r\n{\"error\":\"no space\",\"errorDetail\":{\"message\":\"no space\"}}";
        reply("200 OK", lines)
    });
    let create = pouch_client::CreateImage { from_image: "x".to_owned(), ..Default::default() };
    let mut messages = daemon.client.pull_image(&create, None).await.unwrap();
    assert_eq!(messages.next().await.unwrap().unwrap().status, "a");
    assert_eq!(messages.next().await.unwrap().unwrap().error, "no space");
    assert!(messages.next().await.unwrap().is_none());
    let logs = Logs { stdout: true, follow: true, tail: "5".to_owned(), ..Logs::default() };
    let mut frames =
        Demultiplexer::new(daemon.client.logs("c", &logs).await.unwrap().into_reader());
    assert_eq!(frames.next().await.unwrap().unwrap().1.as_ref(), b"hi");
    assert!(frames.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_source_that_fails_breaks_the_upload() {
    let daemon = Daemon::start(Some("1.42"), |_| reply("200 OK", ""));
    let broken = tokio_util::io::StreamReader::new(futures::stream::iter([
        Ok(bytes::Bytes::from_static(b"data")),
        Err(std::io::Error::other("the disk is gone")),
    ]));
    let result = daemon.client.put_archive("c", "/", PutArchive::default(), broken).await;
    assert!(result.is_err());
}
