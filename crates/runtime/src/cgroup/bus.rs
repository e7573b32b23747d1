//! As much of D-Bus as asking systemd for something takes: one connection, one call at a time, and
//! the signals that say how a job ended.
//!
//! Blocking, without a thread, because the runtime forks. The way is the system bus; on a host
//! without one it is systemd's own socket, where the same messages go unaddressed. Lengths come
//! from the other side and are checked before memory is taken for them; all waiting ends at the
//! connection's deadline.
//!
//! The wire format is that of the D-Bus specification 0.43, in little-endian byte order, which is
//! this target's and therefore systemd's.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Where the bus and systemd itself listen.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const SYSTEMD: &str = "/run/systemd/private";
/// Largest message that is read; what systemd answers us has some hundred bytes.
const MESSAGE_MAX: usize = 1 << 20;
/// Longest line of the handshake.
const LINE_MAX: usize = 512;
/// Signals that are kept while a reply is awaited.
const SIGNALS_MAX: usize = 256;

/// Header fields of a message.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Kinds of messages.
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    /// Neither socket answers.
    #[error("cannot connect to {SYSTEM_BUS} or {SYSTEMD}")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the connection to systemd failed")]
    Io(#[from] io::Error),
    /// The answer is an error.
    #[error("{text} ({name})")]
    Refused {
        /// The error's name, as `org.freedesktop.systemd1.UnitExists`.
        name: String,
        /// Its message.
        text: String,
    },
    /// A job ended otherwise than done: `failed`, `canceled`, `timeout` …
    #[error("the job of {unit} ended as {result:?}")]
    Job {
        /// What the job was for.
        unit: String,
        /// systemd's word.
        result: String,
    },
    /// What came is no D-Bus.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// The deadline of the connection passed.
    #[error("no answer within {0} s")]
    Deadline(u64),
}

/// What a call is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
}

const DAEMON: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// Arguments of a call, or a part of them.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub(super) fn byte(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    pub(super) fn number(&mut self, value: u32) -> &mut Self {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    pub(super) fn long(&mut self, value: u64) -> &mut Self {
        self.align(8);
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// A string or an object path.
    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        // No text of ours is near the 4 GiB that a length can say; one that were would be cut.
        self.number(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.bytes.extend(value.as_bytes());
        self.byte(0)
    }

    pub(super) fn signature(&mut self, value: &'static str) -> &mut Self {
        self.byte(u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.bytes.extend(value.as_bytes());
        self.byte(0)
    }

    /// An array whose elements are aligned to `alignment` bytes.
    pub(super) fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.number(0);
        let length_at = self.bytes.len() - 4;
        self.align(alignment);
        let start = self.bytes.len();
        fill(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(slot) = self.bytes.get_mut(length_at..length_at + 4) {
            slot.copy_from_slice(&length.to_le_bytes());
        }
        self
    }

    /// A structure begins.
    pub(super) fn structure(&mut self) -> &mut Self {
        self.align(8);
        self
    }
}

/// What was received, read from the front.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BusError> {
        let end = self.at.checked_add(count);
        let taken = end
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or(BusError::Malformed("it ends too early"))?;
        self.at += count;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<(), BusError> {
        self.take(self.at.next_multiple_of(to) - self.at).map(|_| ())
    }

    fn byte(&mut self) -> Result<u8, BusError> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn number(&mut self) -> Result<u32, BusError> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().map_err(|_| BusError::Malformed("a number"))?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn length(&mut self) -> Result<usize, BusError> {
        usize::try_from(self.number()?).map_err(|_| BusError::Malformed("a length"))
    }

    fn text(&mut self) -> Result<String, BusError> {
        let length = self.length()?;
        self.terminated(length)
    }

    fn signature(&mut self) -> Result<String, BusError> {
        let length = usize::from(self.byte()?);
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> Result<String, BusError> {
        let text = self.take(length)?;
        self.take(1)?;
        String::from_utf8(text.to_vec()).map_err(|_| BusError::Malformed("a text is not UTF-8"))
    }
}

/// A message that came.
#[derive(Debug, Default)]
struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    signature: String,
    body: Vec<u8>,
}

impl Message {
    /// The first argument, if it is a string or an object path.
    fn first_text(&self) -> Result<String, BusError> {
        if !self.signature.starts_with(['s', 'o']) {
            return Ok(String::new());
        }
        Reader { bytes: &self.body, at: 0 }.text()
    }

    /// Job and result, when it tells the end of a job.
    fn removed_job(&self) -> Result<Option<Removed>, BusError> {
        if self.kind != SIGNAL || self.member != "JobRemoved" || self.signature != "uoss" {
            return Ok(None);
        }
        let mut body = Reader { bytes: &self.body, at: 0 };
        body.number()?;
        let (job, unit, result) = (body.text()?, body.text()?, body.text()?);
        Ok(Some(Removed { job, unit, result }))
    }
}

#[derive(Debug)]
struct Removed {
    job: String,
    unit: String,
    result: String,
}

/// A connection to systemd.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    limit: Duration,
    deadline: Instant,
    /// Ends of jobs that came while something else was awaited.
    removed: VecDeque<Removed>,
}

impl Bus {
    /// Connects; everything on this connection together may take `limit`.
    pub(super) fn connect(limit: Duration) -> Result<Self, BusError> {
        let (stream, addressed) = match UnixStream::connect(SYSTEM_BUS) {
            Ok(stream) => (stream, true),
            Err(error) => match UnixStream::connect(SYSTEMD) {
                Ok(stream) => (stream, false),
                Err(_) => return Err(BusError::Connect(error)),
            },
        };
        let mut bus = Self::over(stream, limit);
        bus.authenticate()?;
        if addressed {
            bus.call(DAEMON, "Hello", "", &Writer::default())?;
            let mut rule = Writer::default();
            rule.text(
                "type='signal',sender='org.freedesktop.systemd1',\
                 path='/org/freedesktop/systemd1',\
                 interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
            );
            bus.call(DAEMON, "AddMatch", "s", &rule)?;
        }
        Ok(bus)
    }

    fn over(stream: UnixStream, limit: Duration) -> Self {
        let deadline = Instant::now() + limit;
        Self { stream, serial: 0, limit, deadline, removed: VecDeque::new() }
    }

    /// The socket tells the other side who we are; the text only has to agree.
    fn authenticate(&mut self) -> Result<(), BusError> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.receive(&mut byte)?;
            line.extend(byte);
            if line.len() > LINE_MAX {
                return Err(BusError::Malformed("a long line in the handshake"));
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(BusError::Malformed("the handshake was refused"));
        }
        self.send(b"BEGIN\r\n")
    }

    /// Calls a method; returns the first result if it is a string or an object path.
    pub(super) fn call(
        &mut self,
        target: Target,
        method: &str,
        signature: &'static str,
        arguments: &Writer,
    ) -> Result<String, BusError> {
        self.serial += 1;
        let message = encode(self.serial, target, method, signature, arguments)?;
        self.send(&message)?;
        loop {
            let answer = self.next()?;
            if answer.reply_to == self.serial {
                match answer.kind {
                    RETURN => return answer.first_text(),
                    ERROR => {
                        let text = answer.first_text()?;
                        return Err(BusError::Refused { name: answer.error, text });
                    }
                    _ => return Err(BusError::Malformed("a reply of an unknown kind")),
                }
            }
            self.keep(&answer)?;
        }
    }

    /// Waits for the end of a job that a call returned.
    pub(super) fn wait_job(&mut self, job: &str) -> Result<(), BusError> {
        loop {
            while let Some(removed) = self.removed.pop_front() {
                if removed.job != job {
                    continue;
                }
                return match removed.result.as_str() {
                    "done" => Ok(()),
                    _ => Err(BusError::Job { unit: removed.unit, result: removed.result }),
                };
            }
            let message = self.next()?;
            self.keep(&message)?;
        }
    }

    fn keep(&mut self, message: &Message) -> Result<(), BusError> {
        if let Some(removed) = message.removed_job()? {
            if self.removed.len() == SIGNALS_MAX {
                self.removed.pop_front();
            }
            self.removed.push_back(removed);
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Message, BusError> {
        let mut start = [0; 16];
        self.receive(&mut start)?;
        let mut fixed = Reader { bytes: &start, at: 0 };
        if fixed.byte()? != b'l' {
            return Err(BusError::Malformed("a foreign byte order"));
        }
        let kind = fixed.byte()?;
        fixed.take(2)?;
        let body = fixed.length()?;
        fixed.number()?;
        let fields = fixed.length()?;
        if body > MESSAGE_MAX || fields > MESSAGE_MAX {
            return Err(BusError::Malformed("a message too long"));
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.receive(&mut rest)?;
        let (header, body) = rest
            .split_at_checked(fields.next_multiple_of(8))
            .ok_or(BusError::Malformed("a header too long"))?;
        let header = header.get(..fields).unwrap_or_default();
        decode(kind, header, body)
    }

    fn remaining(&self) -> Result<Duration, BusError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(BusError::Deadline(self.limit.as_secs())) } else { Ok(left) }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        self.stream.set_write_timeout(Some(self.remaining()?))?;
        self.stream.write_all(bytes).map_err(|error| self.broken(error))
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<(), BusError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            self.stream.set_read_timeout(Some(self.remaining()?))?;
            match self.stream.read(rest) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    fn broken(&self, error: io::Error) -> BusError {
        if error.kind() == io::ErrorKind::WouldBlock {
            BusError::Deadline(self.limit.as_secs())
        } else {
            BusError::Io(error)
        }
    }
}

fn encode(
    serial: u32,
    target: Target,
    method: &str,
    signature: &'static str,
    arguments: &Writer,
) -> Result<Vec<u8>, BusError> {
    let length = u32::try_from(arguments.bytes.len())
        .ok()
        .filter(|length| usize::try_from(*length).is_ok_and(|length| length <= MESSAGE_MAX))
        .ok_or(BusError::Malformed("arguments too long"))?;
    let mut message = Writer::default();
    message.byte(b'l').byte(CALL).byte(0).byte(1).number(length).number(serial);
    message.array(8, |fields| {
        fields.structure().byte(PATH).signature("o").text(target.path);
        for (field, text) in
            [(INTERFACE, target.interface), (MEMBER, method), (DESTINATION, target.destination)]
        {
            fields.structure().byte(field).signature("s").text(text);
        }
        if !signature.is_empty() {
            fields.structure().byte(SIGNATURE).signature("g").signature(signature);
        }
    });
    message.align(8);
    message.bytes.extend(&arguments.bytes);
    Ok(message.bytes)
}

fn decode(kind: u8, header: &[u8], body: &[u8]) -> Result<Message, BusError> {
    let mut message = Message { kind, body: body.to_vec(), ..Message::default() };
    // The fields start at a multiple of eight in the message, so alignment counts from here.
    let mut fields = Reader { bytes: header, at: 0 };
    while fields.at < header.len() {
        fields.align(8)?;
        let field = fields.byte()?;
        let kind = fields.signature()?;
        let (number, text) = match kind.as_str() {
            "u" => (fields.number()?, String::new()),
            "s" | "o" => (0, fields.text()?),
            "g" => (0, fields.signature()?),
            _ => return Err(BusError::Malformed("a header field of an unknown type")),
        };
        match field {
            MEMBER => message.member = text,
            ERROR_NAME => message.error = text,
            REPLY_SERIAL => message.reply_to = number,
            SIGNATURE => message.signature = text,
            _ => {}
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGER: Target = Target {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
    };

    /// A message as the other side sends one.
    fn incoming(kind: u8, fields: &[(u8, &'static str, &str, u32)], body: &Writer) -> Vec<u8> {
        let mut message = Writer::default();
        let length = u32::try_from(body.bytes.len()).unwrap();
        message.byte(b'l').byte(kind).byte(1).byte(1).number(length).number(99);
        message.array(8, |array| {
            for (field, signature, text, number) in fields {
                array.structure().byte(*field).signature(signature);
                match *signature {
                    "u" => array.number(*number),
                    "g" => {
                        array.byte(u8::try_from(text.len()).unwrap());
                        array.bytes.extend(text.as_bytes());
                        array.byte(0)
                    }
                    _ => array.text(text),
                };
            }
        });
        message.align(8);
        message.bytes.extend(&body.bytes);
        message.bytes
    }

    fn removed(job: &str, result: &str) -> Vec<u8> {
        let mut body = Writer::default();
        body.number(7).text(job).text("x.scope").text(result);
        incoming(SIGNAL, &[(MEMBER, "s", "JobRemoved", 0), (SIGNATURE, "g", "uoss", 0)], &body)
    }

    /// A bus whose other end says all of `script` and then hears.
    fn bus(script: &[Vec<u8>]) -> (Bus, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&script.concat()).unwrap();
        (Bus::over(ours, Duration::from_secs(5)), theirs)
    }

    #[test]
    fn a_call_is_encoded_as_the_specification_has_it() {
        let mut arguments = Writer::default();
        arguments.text("u").array(8, |a| {
            a.structure().text("A").signature("t").long(5);
        });
        let bytes = encode(3, MANAGER, "M", "sa(sv)", &arguments).unwrap();
        assert_eq!(
            &bytes[..16],
            [&b"l\x01\x00\x01"[..], &[40, 0, 0, 0, 3, 0, 0, 0], &bytes[12..16]].concat()
        );
        let body = &bytes[bytes.len() - 40..];
        assert_eq!((bytes.len() - 40) % 8, 0);
        // "u", padding, array of 24 bytes that starts at 16, "A", its variant, the value at 32.
        assert_eq!(&body[..16], b"\x01\0\0\0u\0\0\0\x18\0\0\0\0\0\0\0");
        assert_eq!(&body[16..], b"\x01\0\0\0A\0\x01t\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
    }

    #[test]
    fn a_job_that_ends_before_its_call_returns_is_not_missed() {
        let mut job = Writer::default();
        job.text("/job/7");
        let (mut bus, _peer) = bus(&[
            removed("/job/6", "done"),
            removed("/job/7", "done"),
            incoming(RETURN, &[(REPLY_SERIAL, "u", "", 1), (SIGNATURE, "g", "o", 0)], &job),
        ]);
        let job = bus.call(MANAGER, "StartTransientUnit", "", &Writer::default()).unwrap();
        assert_eq!(job, "/job/7");
        bus.wait_job(&job).unwrap();
    }

    #[test]
    fn a_failed_job_and_a_refused_call_tell_why() {
        let mut text = Writer::default();
        text.text("Unit x.scope was already loaded.");
        let (mut bus, _peer) = bus(&[
            incoming(
                ERROR,
                &[
                    (ERROR_NAME, "s", "org.freedesktop.systemd1.UnitExists", 0),
                    (REPLY_SERIAL, "u", "", 1),
                    (SIGNATURE, "g", "s", 0),
                ],
                &text,
            ),
            removed("/job/1", "failed"),
        ]);
        match bus.call(MANAGER, "StartTransientUnit", "", &Writer::default()) {
            Err(BusError::Refused { name, text }) => {
                assert_eq!(name, "org.freedesktop.systemd1.UnitExists");
                assert_eq!(text, "Unit x.scope was already loaded.");
            }
            other => panic!("{other:?}"),
        }
        match bus.wait_job("/job/1") {
            Err(BusError::Job { unit, result }) => {
                assert_eq!((unit.as_str(), result.as_str()), ("x.scope", "failed"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lengths_are_not_trusted_and_silence_ends() {
        let mut huge = incoming(RETURN, &[], &Writer::default());
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let (mut talker, _peer) = bus(&[huge]);
        assert!(matches!(talker.next(), Err(BusError::Malformed(_))));

        let mut short = Writer::default();
        short.number(1000).byte(b'x');
        let fields = [(REPLY_SERIAL, "u", "", 1), (SIGNATURE, "g", "s", 0)];
        let (mut talker, _peer) = bus(&[incoming(RETURN, &fields, &short)]);
        let answer = talker.call(MANAGER, "M", "", &Writer::default());
        assert!(matches!(answer, Err(BusError::Malformed(_))));

        let (ours, _peer) = UnixStream::pair().unwrap();
        let mut silent = Bus::over(ours, Duration::from_millis(20));
        assert!(matches!(silent.next(), Err(BusError::Deadline(_))));
    }
}
