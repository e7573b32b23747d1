//! Just enough of HTTP/1.1 over a unix socket: one connection, kept as long as the server keeps it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of status line and headers together, and of a chunk's size line.
const MAX_HEAD: u64 = 64 << 10;
const MAX_BODY: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("connecting to {}", .path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("{request}")]
    Io { request: String, source: io::Error },
    #[error("{request}: the answer is not HTTP/1 ({what})")]
    Protocol { request: String, what: &'static str },
}

/// What fails within one exchange, before the request's name is known.
enum Broken {
    Io(io::Error),
    Protocol(&'static str),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// What is sent with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Body<'a> {
    Empty,
    Json(&'a [u8]),
    Tar(&'a [u8]),
}

/// A client of one socket. Reconnects when the server closed the connection with the last answer;
/// never in the middle of a request, since that one may have been acted on.
#[derive(Debug)]
pub(crate) struct Client {
    path: PathBuf,
    deadline: Duration,
    connection: Option<BufReader<UnixStream>>,
}

#[derive(Default)]
struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
    close: bool,
}

impl Client {
    /// Every read and write of the connection must make progress within `deadline`.
    pub(crate) fn connect(path: &Path, deadline: Duration) -> Result<Self, Error> {
        let mut client = Self { path: path.to_owned(), deadline, connection: None };
        client.connection = Some(client.dial()?);
        Ok(client)
    }

    /// A further client of the same socket.
    pub(crate) fn another(&self) -> Result<Self, Error> {
        Self::connect(&self.path, self.deadline)
    }

    fn dial(&self) -> Result<BufReader<UnixStream>, Error> {
        let connect = || {
            let stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(self.deadline))?;
            stream.set_write_timeout(Some(self.deadline))?;
            Ok(BufReader::new(stream))
        };
        connect().map_err(|source| Error::Connect { path: self.path.clone(), source })
    }

    /// Sends one request and reads the whole answer.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        body: Body<'_>,
    ) -> Result<Response, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.dial()?,
        };
        match exchange(&mut connection, method, path, body) {
            Ok((response, keep)) => {
                if keep {
                    self.connection = Some(connection);
                }
                Ok(response)
            }
            Err(Broken::Io(source)) => {
                Err(Error::Io { request: format!("{method} {path}"), source })
            }
            Err(Broken::Protocol(what)) => {
                Err(Error::Protocol { request: format!("{method} {path}"), what })
            }
        }
    }
}

/// The answer, and whether the connection can carry another request.
fn exchange(
    connection: &mut BufReader<UnixStream>,
    method: &str,
    path: &str,
    body: Body<'_>,
) -> Result<(Response, bool), Broken> {
    let (kind, bytes) = match body {
        Body::Empty => ("", &[][..]),
        Body::Json(bytes) => ("Content-Type: application/json\r\n", bytes),
        Body::Tar(bytes) => ("Content-Type: application/x-tar\r\n", bytes),
    };
    // One write for what fits into one, as every ordinary client does.
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {}\r\n\r\n",
        bytes.len()
    )
    .into_bytes();
    request.extend_from_slice(bytes);
    connection.get_mut().write_all(&request)?;

    let head = loop {
        let head = read_head(connection)?;
        // 1xx announce the answer.
        if head.status >= 200 {
            break head;
        }
    };
    let mut answer = Vec::new();
    let mut keep = !head.close;
    if !matches!(head.status, 204 | 304) {
        if head.chunked {
            read_chunks(connection, &mut answer)?;
        } else if let Some(length) = head.length {
            read_exactly(connection, length, &mut answer)?;
        } else {
            // An upgraded or an old-style stream: ends with the connection.
            connection.take(MAX_BODY).read_to_end(&mut answer)?;
            keep = false;
        }
    }
    Ok((Response { status: head.status, body: answer }, keep))
}

fn read_head(connection: &mut impl BufRead) -> Result<Head, Broken> {
    let mut input = connection.take(MAX_HEAD);
    let mut line = String::new();
    input.read_line(&mut line)?;
    if line.is_empty() {
        return Err(Broken::Protocol("closed before the status line"));
    }
    // A server may say 1.0 for a stream that ends with its connection.
    let (old, rest) = match (line.strip_prefix("HTTP/1.1 "), line.strip_prefix("HTTP/1.0 ")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err(Broken::Protocol("status line")),
    };
    let status = rest.get(..3).and_then(|code| code.parse().ok());
    let status = status.ok_or(Broken::Protocol("status code"))?;
    let mut head = Head { status, close: old, ..Head::default() };
    loop {
        line.clear();
        input.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(Broken::Protocol("header line"))?;
        if line.is_empty() {
            return Ok(head);
        }
        let (name, value) = line.split_once(':').ok_or(Broken::Protocol("header line"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            head.length = Some(value.parse().map_err(|_| Broken::Protocol("content-length"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            head.chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            head.close |= value.eq_ignore_ascii_case("close");
        }
    }
}

fn read_chunks(connection: &mut impl BufRead, answer: &mut Vec<u8>) -> Result<(), Broken> {
    loop {
        let mut line = String::new();
        connection.take(MAX_HEAD).read_line(&mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(|_| Broken::Protocol("chunk size"))?;
        read_exactly(connection, size, answer)?;
        line.clear();
        connection.take(MAX_HEAD).read_line(&mut line)?;
        if line != "\r\n" {
            return Err(Broken::Protocol("end of chunk"));
        }
        if size == 0 {
            return Ok(());
        }
    }
}

fn read_exactly(
    connection: &mut impl BufRead,
    length: u64,
    answer: &mut Vec<u8>,
) -> Result<(), Broken> {
    let so_far = u64::try_from(answer.len()).unwrap_or(u64::MAX);
    if so_far.saturating_add(length) > MAX_BODY {
        return Err(Broken::Protocol("answer too large"));
    }
    let read = connection.take(length).read_to_end(answer)?;
    if u64::try_from(read) != Ok(length) {
        return Err(Broken::Protocol("closed within the answer"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str) -> Result<Vec<u8>, ()> {
        let mut answer = Vec::new();
        read_chunks(&mut text.as_bytes(), &mut answer).map(|()| answer).map_err(|_| ())
    }

    #[test]
    fn heads() {
        let head = |text: &str| read_head(&mut text.as_bytes());
        let parsed = head("HTTP/1.1 201 Created\r\ncontent-LENGTH: 7\r\nConnection: Close\r\n\r\n")
            .unwrap_or_default();
        assert_eq!(
            (parsed.status, parsed.length, parsed.chunked, parsed.close),
            (201, Some(7), false, true)
        );
        let parsed =
            head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_or_default();
        assert!(parsed.chunked && parsed.length.is_none() && !parsed.close);
        let parsed = head("HTTP/1.0 200 OK\r\n\r\n").unwrap_or_default();
        assert!(parsed.close && parsed.status == 200);
        for bad in [
            "",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
        ] {
            assert!(head(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn chunked_bodies() {
        assert_eq!(chunks("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"), Ok(b"abcde".to_vec()));
        for bad in ["", "3\r\nab", "3\r\nabcd\r\n0\r\n\r\n", "zz\r\n", "ffffffffff\r\n"] {
            assert!(chunks(bad).is_err(), "{bad:?}");
        }
    }
}
