//! The server over its sockets, with clients that do what real ones do not.

#[path = "../../tests/common/mod.rs"]
mod common;

mod commands;
mod forwards;
mod hygiene;
mod websockets;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use common::{Fake, Pod, bind, echo_pod, frame, patience};

use crate::{Limits, Request, Server, StreamSet};

const OUTPUTS: StreamSet = StreamSet { stdin: false, stdout: true, stderr: true, tty: false };
const ALL: StreamSet = StreamSet { stdin: true, ..OUTPUTS };
const TERMINAL: StreamSet = StreamSet { stdin: true, stdout: true, stderr: false, tty: true };

/// An answer's status line and headers.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// Sends a request without a body, and reads the head of its answer.
pub(crate) async fn request(url: &str, method: &str, headers: &str) -> (TcpStream, Head) {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut socket = TcpStream::connect(host).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let text = format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let read = tokio::time::timeout(patience(), socket.read(&mut byte)).await.unwrap();
        assert_eq!(read.unwrap(), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).unwrap().to_lowercase();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (socket, Head { status, text })
}

fn exec(server: &Server, streams: StreamSet, process: Fake) -> String {
    server.issue(Request::exec(streams, process.opener(streams)).unwrap()).unwrap()
}
