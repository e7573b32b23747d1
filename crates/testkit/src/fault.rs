//! A proxy in front of a registry, or of a [`Shelf`], that does to its answers what networks and
//! bad mirrors do.
//!
//! One thread per connection and one request per connection: what is tested is the client, so the
//! proxy is kept as plain as it can be. It keeps a log of what it was asked.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::net::Shutdown as How;

use crate::shelf::Shelf;

/// For one read or write of a side that went away.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection is held that is meant to hang.
const HANG: Duration = Duration::from_secs(120);

/// What goes wrong. Offsets are of the body of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks after so many bytes; the announced length is the true one.
    Cut(u64),
    /// Nothing more comes after so many bytes, but the connection stays.
    Stall(u64),
    /// A byte is wrong.
    Flip(u64),
    /// The rest is missing, and the announced length says that all is well.
    Truncate(u64),
    /// So many bytes at a time, with a pause after each.
    Drip(usize, Duration),
    /// The whole answer for a range.
    IgnoreRange,
    /// A status with headers and no body instead of the answer.
    Status(u16, Vec<(String, String)>),
    /// A status with headers and a body instead of the answer.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// A header has another value than it should.
    Header(String, String),
    /// The body is compressed, although nobody asked for that.
    Gzip,
    /// To the same path at another `http://host:port`.
    Redirect(String),
    /// The request is read and never answered.
    Hang,
    /// The connection breaks after so many bytes of an upload have gone through.
    CutUpload(u64),
}

/// A fault for some requests.
#[derive(Debug, Clone)]
struct Rule {
    method: String,
    part: String,
    fault: Fault,
    left: usize,
}

/// A request that was made.
#[derive(Debug, Clone)]
pub struct Seen {
    /// HTTP method.
    pub method: String,
    /// With query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    /// Bytes of bodies that were sent.
    sent: Mutex<u64>,
    stopped: AtomicBool,
}

/// Where the right answers come from.
#[derive(Debug, Clone)]
enum Upstream {
    /// `host:port`, by plain HTTP.
    Host(String),
    Shelf(Arc<Shelf>),
}

/// The proxy. It stops when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream` (`host:port`), by plain HTTP.
    #[must_use]
    pub fn start(upstream: impl Into<String>) -> Self {
        Self::serve(Upstream::Host(upstream.into()))
    }

    /// Listens on a free port of 127.0.0.1 and answers from `shelf`.
    #[must_use]
    pub fn of(shelf: &Arc<Shelf>) -> Self {
        Self::serve(Upstream::Shelf(Arc::clone(shelf)))
    }

    fn serve(upstream: Upstream) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let (shared, listener) = (Arc::clone(&shared), listener.try_clone().unwrap());
            move || {
                for stream in listener.incoming() {
                    if shared.stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(stream) = stream else { return };
                    let (shared, upstream) = (Arc::clone(&shared), upstream.clone());
                    std::thread::spawn(move || {
                        // A client that goes away is one of the things that are tested.
                        let _ = serve(stream, &upstream, &shared);
                    });
                }
            }
        });
        Self { address, listener, shared, thread: Some(thread) }
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, the next `times` requests of `method` whose path contains `part` go wrong.
    /// Rules that were made earlier come first.
    pub fn fault(&self, method: &str, part: &str, times: usize, fault: Fault) {
        let rule = Rule { method: method.into(), part: part.into(), fault, left: times };
        self.shared.rules.lock().unwrap().push(rule);
    }

    /// All is well again.
    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// What was asked so far, without the looks at `/v2/`.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|r| r.path != "/v2/").cloned().collect()
    }

    /// How many requests of `method` had `part` in their path.
    #[must_use]
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|r| r.method == method && r.path.contains(part)).count()
    }

    /// Bytes of bodies that were sent to clients.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        *self.shared.sent.lock().unwrap()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, in whatever network namespace it is.
        let _ = rustix::net::shutdown(&self.listener, How::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A port of 127.0.0.1 where nobody listens.
#[must_use]
pub fn dead_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// First line and headers.
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn read(stream: &mut impl io::BufRead) -> io::Result<Option<Self>> {
        let mut first = String::new();
        if stream.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Some(Self { first: first.trim_end().to_owned(), headers }))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn length(&self) -> u64 {
        self.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn write(&self, stream: &mut impl io::Write) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("connection: close\r\n\r\n");
        stream.write_all(text.as_bytes())
    }
}

fn serve(stream: TcpStream, upstream: &Upstream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut client = BufReader::new(stream);
    // A greeting of TLS is no text: the connection is closed, as by any plain server.
    let Some(mut head) = Head::read(&mut client)? else { return Ok(()) };
    let mut words = head.first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let fault = {
        let headers = head.headers.iter().cloned().collect();
        let seen = Seen { method: method.clone(), path: path.clone(), headers };
        shared.seen.lock().unwrap().push(seen);
        let mut rules = shared.rules.lock().unwrap();
        let fits = |r: &&mut Rule| r.left > 0 && r.method == method && path.contains(&r.part);
        rules.iter_mut().find(fits).map(|rule| {
            rule.left -= 1;
            rule.fault.clone()
        })
    };
    head.headers.retain(|(name, _)| name != "connection" && name != "expect");
    let instead = match &fault {
        Some(Fault::Hang) => {
            hang(shared);
            return Ok(());
        }
        Some(Fault::Status(code, headers)) => Some((*code, headers.clone(), Vec::new())),
        Some(Fault::Answer(code, headers, body)) => Some((*code, headers.clone(), body.clone())),
        Some(Fault::Redirect(base)) => {
            Some((307, vec![("location".to_owned(), format!("{base}{path}"))], Vec::new()))
        }
        Some(Fault::IgnoreRange) => {
            head.headers.retain(|(name, _)| name != "range");
            None
        }
        _ => None,
    };
    if let Some((code, mut headers, body)) = instead {
        io::copy(&mut (&mut client).take(head.length()), &mut io::sink())?;
        headers.push(("content-length".to_owned(), body.len().to_string()));
        let answer = Head { first: format!("HTTP/1.1 {code} Fault"), headers };
        answer.write(client.get_mut())?;
        return client.get_mut().write_all(&body);
    }
    let no_body = |answer: &Head| method == "HEAD" || answer.first.contains(" 204 ");
    let (mut answer, mut body) = match upstream {
        Upstream::Shelf(shelf) => {
            let get = |name: &str| head.get(name).map(str::to_owned);
            let taken = shelf.answer(&method, &path, get("range"), get("authorization"));
            let first = format!("HTTP/1.1 {} Shelf", taken.status);
            (Head { first, headers: taken.headers }, taken.body)
        }
        Upstream::Host(upstream) => {
            let mut server = TcpStream::connect(upstream)?;
            server.set_read_timeout(Some(PATIENCE))?;
            head.write(&mut server)?;
            let upload = match fault {
                Some(Fault::CutUpload(bytes)) => bytes.min(head.length()),
                _ => head.length(),
            };
            io::copy(&mut (&mut client).take(upload), &mut server)?;
            if matches!(fault, Some(Fault::CutUpload(_))) {
                // What went through is to be stored before the connection is seen to break.
                std::thread::sleep(Duration::from_millis(100));
                server.shutdown(Shutdown::Both)?;
                return Ok(());
            }
            let mut server = BufReader::new(server);
            let Some(answer) = Head::read(&mut server)? else { return Ok(()) };
            let mut body = Vec::new();
            match (no_body(&answer), answer.get("transfer-encoding").is_some()) {
                (true, _) => {}
                (false, true) => body = unchunked(&mut server)?,
                (false, false) => {
                    server.take(answer.length()).read_to_end(&mut body)?;
                }
            }
            (answer, body)
        }
    };
    let no_body = no_body(&answer);
    answer.headers.retain(|(name, _)| {
        name != "connection" && name != "transfer-encoding" && (no_body || name != "content-length")
    });
    match &fault {
        Some(Fault::Truncate(bytes)) => body.truncate(usize::try_from(*bytes).unwrap()),
        Some(Fault::Gzip) => {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(&body)?;
            body = packed.finish()?;
            answer.headers.push(("content-encoding".to_owned(), "gzip".to_owned()));
        }
        Some(Fault::Header(name, value)) => {
            answer.headers.retain(|(known, _)| known != name);
            answer.headers.push((name.clone(), value.clone()));
        }
        _ => {}
    }
    if !no_body {
        answer.headers.push(("content-length".to_owned(), body.len().to_string()));
    }
    let client = client.get_mut();
    answer.write(client)?;
    let send = |client: &mut TcpStream, bytes: &[u8]| -> io::Result<()> {
        client.write_all(bytes)?;
        *shared.sent.lock().unwrap() += bytes.len() as u64;
        Ok(())
    };
    match fault {
        Some(Fault::Cut(at)) => {
            let at = usize::try_from(at).unwrap().min(body.len());
            send(client, &body[..at])
        }
        Some(Fault::Stall(at)) => {
            let at = usize::try_from(at).unwrap().min(body.len());
            send(client, &body[..at])?;
            hang(shared);
            Ok(())
        }
        Some(Fault::Flip(at)) => {
            if let Some(byte) = body.get_mut(usize::try_from(at).unwrap()) {
                *byte ^= 1;
            }
            send(client, &body)
        }
        Some(Fault::Drip(bytes, pause)) => body.chunks(bytes).try_for_each(|part| {
            send(client, part)?;
            std::thread::sleep(pause);
            Ok(())
        }),
        _ => send(client, &body),
    }
}

/// Keeps a connection open and silent.
fn hang(shared: &Shared) {
    let end = Instant::now() + HANG;
    while Instant::now() < end && !shared.stopped.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn unchunked(stream: &mut impl io::BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        if size == 0 {
            return Ok(body);
        }
        let mut chunk = vec![0; size];
        stream.read_exact(&mut chunk)?;
        body.extend_from_slice(&chunk);
        stream.read_line(&mut line)?;
    }
}
