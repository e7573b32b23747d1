//! HTTP over the daemon's socket, for what the CLIs do not say or would not send.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// What a test waits for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines as sent, without the status line.
    pub head: String,
    /// Body, with chunked coding undone.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `Null` when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `message` of an error.
    #[must_use]
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Asserts the status code.
    #[track_caller]
    pub fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// A connection on which a request was sent.
#[derive(Debug)]
pub struct Connection {
    /// The socket, just behind the request.
    pub stream: UnixStream,
}

impl Connection {
    /// Sends a request with a body and asks the server to close afterwards.
    #[must_use]
    pub fn send(socket: &Path, method: &str, path: &str, kind: &str, body: &[u8]) -> Self {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: pouch\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let connection = Self::raw(socket, head.as_bytes());
        // The server may answer and close before it has read a body that it refuses.
        let _ = (&connection.stream).write_all(body);
        connection
    }

    /// Sends bytes as they are.
    #[must_use]
    pub fn raw(socket: &Path, bytes: &[u8]) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        Self { stream }
    }

    /// Reads the answer to its end.
    ///
    /// # Panics
    ///
    /// When the server says nothing for a minute, or no HTTP.
    #[must_use]
    pub fn answer(mut self) -> Answer {
        let mut all = Vec::new();
        // A server that closes with unread bytes on its side resets the connection; what it said
        // before counts.
        if let Err(error) = self.stream.read_to_end(&mut all) {
            assert!(!all.is_empty(), "no answer: {error}");
        }
        parse(&all)
    }
}

#[track_caller]
fn parse(all: &[u8]) -> Answer {
    let end = all.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no HTTP: {}", String::from_utf8_lossy(all)));
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let (status_line, head) = head.split_once("\r\n").unwrap_or((&head, ""));
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
    let mut answer = Answer { status, head: head.to_owned(), body: all[end + 4..].to_vec() };
    if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        answer.body = unchunk(&answer.body);
    }
    answer
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = String::from_utf8_lossy(&rest[..line]);
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        let data = line + 2;
        if size == 0 || rest.len() < data + size {
            break;
        }
        body.extend_from_slice(&rest[data..data + size]);
        rest = rest.get(data + size + 2..).unwrap_or_default();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        let answer = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        );
        assert_eq!((answer.status, answer.text().as_str()), (200, "abcde"));
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    }

    #[test]
    fn a_cut_off_chunk_is_left_out() {
        assert_eq!(unchunk(b"2\r\nab\r\n9\r\nshort"), b"ab");
    }
}
