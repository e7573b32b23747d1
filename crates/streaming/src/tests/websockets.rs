//! Channels of WebSockets, and the tunnel.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::spdy::test_client::Client;

struct Socket {
    socket: WebSocketStream<TcpStream>,
    /// What came on each channel.
    seen: Vec<Vec<u8>>,
    messages: usize,
    code: Option<u16>,
}

async fn upgrade(url: &str, protocol: &str) -> Result<(WebSocketStream<TcpStream>, Head), Head> {
    let mut headers = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        .to_owned();
    if !protocol.is_empty() {
        headers.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
    }
    let (socket, head) = request(url, "GET", &headers).await;
    if head.status != 101 {
        return Err(head);
    }
    Ok((WebSocketStream::from_raw_socket(socket, Role::Client, None).await, head))
}

impl Socket {
    async fn connect(url: &str, protocol: &str) -> Self {
        let (socket, head) = upgrade(url, protocol).await.unwrap();
        let accept = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";
        assert!(head.text.contains(accept), "{}", head.text);
        let chosen = format!("sec-websocket-protocol: {protocol}\r\n");
        assert_eq!(head.text.contains(&chosen), !protocol.is_empty(), "{}", head.text);
        Self { socket, seen: vec![Vec::new(); 5], messages: 0, code: None }
    }

    async fn send(&mut self, message: &[u8]) {
        self.socket.send(Message::Binary(Bytes::copy_from_slice(message))).await.unwrap();
    }

    /// Takes one message; `false` at the end.
    async fn take(&mut self) -> bool {
        let next = tokio::time::timeout(patience(), self.socket.next()).await.unwrap();
        let data = match next {
            Some(Ok(Message::Close(frame))) => {
                self.code = frame.map(|frame| frame.code.into());
                return true;
            }
            Some(Ok(message)) => message.into_data(),
            Some(Err(error)) => panic!("{error}"),
            None => return false,
        };
        self.messages += 1;
        let channel = usize::from(data[0]);
        self.seen[if channel < 5 { channel } else { channel - usize::from(b'0') }]
            .extend_from_slice(&data[1..]);
        true
    }

    async fn drain(&mut self) {
        while self.take().await {}
    }
}

#[tokio::test]
async fn every_version_tells_output_and_exit() {
    let server = bind(Limits::default()).await;
    let status = r#"{"status":"Failure","message":"command terminated with non-zero exit code: 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
    let text = "command terminated with non-zero exit code: 3";
    for (protocol, said) in [
        ("v5.channel.k8s.io", status),
        ("v4.channel.k8s.io", status),
        ("channel.k8s.io", text),
        ("", text),
    ] {
        let url = exec(&server, OUTPUTS, Fake::says(&[(1, b"out"), (2, b"err")], 3));
        let mut socket = Socket::connect(&url, protocol).await;
        assert!(socket.take().await);
        assert!(socket.seen.iter().all(Vec::is_empty), "the first message is empty");
        socket.drain().await;
        assert_eq!(socket.seen[1], b"out");
        assert_eq!(socket.seen[2], b"err");
        assert_eq!(String::from_utf8_lossy(&socket.seen[3]), said);
        assert_eq!(socket.code, Some(1000));
    }
    server.close().await;
}

#[tokio::test]
async fn base64_is_spoken_both_ways() {
    let server = bind(Limits::default()).await;
    for protocol in ["v4.base64.channel.k8s.io", "base64.channel.k8s.io"] {
        let process = Fake::new(|mut socket, _| async move {
            let mut input = [0; 5];
            socket.read_exact(&mut input).await?;
            socket.write_all(&frame(1, &input)).await?;
            Ok(0)
        });
        let mut socket = Socket::connect(&exec(&server, ALL, process), protocol).await;
        // Nonsense and unknown channels are passed over.
        for message in ["0!!!!", "9AAAA", "0aGVs", "0bG8="] {
            socket.socket.send(Message::Text(message.into())).await.unwrap();
        }
        socket.drain().await;
        assert_eq!(socket.seen[1], b"aGVsbG8=".to_vec(), "{protocol}");
    }
    server.close().await;
}

#[tokio::test]
async fn only_the_fifth_version_closes_input() {
    let server = bind(Limits::default()).await;
    let mut socket = Socket::connect(&exec(&server, ALL, Fake::cat(4)), "v5.channel.k8s.io").await;
    socket.send(b"\x00typed").await;
    socket.send(b"\xff\x00").await;
    socket.send(b"\x00late").await;
    socket.drain().await;
    assert_eq!(socket.seen[1], b"typed");
    assert!(String::from_utf8_lossy(&socket.seen[3]).contains(r#""message":"4""#));

    let mut socket = Socket::connect(&exec(&server, ALL, Fake::cat(4)), "v4.channel.k8s.io").await;
    socket.send(b"\xff\x00").await;
    socket.send(b"\x00still").await;
    while socket.seen[1] != b"still" {
        assert!(socket.take().await);
    }
    socket.socket.send(Message::Ping(Bytes::from_static(b"p"))).await.unwrap();
    let pong = tokio::time::timeout(patience(), socket.socket.next()).await.unwrap();
    assert_eq!(pong.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"p")));

    for broken in [&b"\xff\x09"[..], b"\xff", b"\xff\x00\x00"] {
        let url = exec(&server, ALL, Fake::cat(4));
        let mut socket = Socket::connect(&url, "v5.channel.k8s.io").await;
        socket.send(broken).await;
        socket.drain().await;
        assert_eq!(socket.code, Some(1002));
    }
    server.close().await;
}

#[tokio::test]
async fn terminals_are_resized() {
    let server = bind(Limits::default()).await;
    let process = Fake::terminal(2);
    let sizes = process.sizes();
    let mut socket = Socket::connect(&exec(&server, TERMINAL, process), "v5.channel.k8s.io").await;
    socket.send(b"\x04{\"Width\":80,\"Height\":24}").await;
    socket.send(b"\x00typed").await;
    socket.send(b"\x04{\"Width\":132,\"Height\":43}\n").await;
    socket.send(b"\xff\x00").await;
    socket.drain().await;
    assert_eq!(socket.seen[1], b"typed");
    assert_eq!(*sizes.lock().unwrap(), [(80, 24), (132, 43)]);
    server.close().await;
}

#[tokio::test]
async fn ports_have_pairs_of_channels() {
    let server = bind(Limits::default()).await;
    let pod = echo_pod().await;
    let url = server.issue(pod.request_for(vec![80, 9])).unwrap();
    let mut socket = Socket::connect(&url, "v4.channel.k8s.io").await;
    socket.send(b"\x00ping").await;
    while socket.seen[0] != b"\x50\x0080\nping"
        || !socket.seen[3].ends_with(b"nothing listens on 9")
    {
        assert!(socket.take().await, "{:?}", socket.seen);
    }
    assert_eq!(socket.seen[1], b"\x50\x00");
    assert_eq!(socket.seen[2], b"\x09\x00");
    assert!(socket.seen[3].starts_with(b"\x09\x00"));
    server.close().await;
}

#[tokio::test]
async fn spdy_goes_through_the_tunnel() {
    let server = bind(Limits::default()).await;
    let pod = echo_pod().await;
    let url = server.issue(pod.request()).unwrap();
    let tunnel = "SPDY/3.1+portforward.k8s.io";
    let (mut socket, head) = upgrade(&url, tunnel).await.unwrap();
    assert!(head.text.contains("sec-websocket-protocol: spdy/3.1+portforward.k8s.io"));
    // Both ends of a pipe, between which messages become bytes.
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let code = tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(theirs);
        let mut buffer = vec![0; 1000];
        loop {
            tokio::select! {
                length = read.read(&mut buffer) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..length.unwrap()]);
                    socket.send(Message::Binary(bytes)).await.unwrap();
                }
                message = socket.next() => match message.unwrap().unwrap() {
                    Message::Binary(bytes) => write.write_all(&bytes).await.unwrap(),
                    Message::Close(frame) => return frame.map(|frame| u16::from(frame.code)),
                    other => panic!("{other:?}"),
                },
            }
        }
    });
    let mut client = Client::over(ours);
    let error = client.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]).await;
    let data = client.open(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")]).await;
    client.send(data, &[b'x'; 100_000]).await;
    client.finish(data).await;
    client.until(|client| client.over_with(data) && client.over_with(error)).await;
    assert_eq!(client.data(data).len(), 3 + 100_000 + 4);
    server.close().await;
    assert_eq!(code.await.unwrap(), Some(1000));
}

#[tokio::test]
async fn protocols_that_are_not_there_are_refused() {
    let server = bind(Limits::default()).await;
    let pod = echo_pod().await;
    for (url, protocol) in [
        (exec(&server, ALL, Fake::cat(0)), "v9.channel.k8s.io"),
        (exec(&server, ALL, Fake::cat(0)), "SPDY/3.1+portforward.k8s.io"),
        (server.issue(pod.request()).unwrap(), "v5.channel.k8s.io"),
    ] {
        assert_eq!(upgrade(&url, protocol).await.unwrap_err().status, 403, "{protocol}");
    }
    let url = exec(&server, OUTPUTS, Fake::says(&[], 0));
    assert!(upgrade(&url, "v9.channel.k8s.io, v5.channel.k8s.io").await.is_ok());
    server.close().await;
}
