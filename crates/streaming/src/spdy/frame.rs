//! Frames: a decoder that takes bytes as they come, and encoders.
//!
//! Sans I/O. Control frames are short and taken whole; data frames may claim 16 MiB and are handed
//! on in the pieces in which they arrive, so that memory does not follow what a header claims.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::ProtocolError;
#[cfg(test)]
use super::headers::Deflater;
use super::headers::{Headers, Inflater};

const VERSION: u16 = 3;
const HEADER: usize = 8;
/// Bytes of a control frame after its header. Clients send less than a hundred.
const CONTROL: usize = 16 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

const SETTINGS_INITIAL_WINDOW: u32 = 7;

const ID_MASK: u32 = 0x7fff_ffff;

/// Why a stream is reset (draft 3, section 2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Reset {
    Refused = 3,
    Cancel = 5,
}

/// How a connection ended (draft 3, section 2.6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Goodbye {
    Ok = 0,
    Protocol = 1,
}

/// What a peer said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Opened {
        id: u32,
        headers: Headers,
        finished: bool,
        unidirectional: bool,
    },
    /// A piece of a data frame; `finished` with the last piece of the last frame.
    Data {
        id: u32,
        bytes: Bytes,
        finished: bool,
    },
    /// Further headers, of which only the end of a stream matters here.
    Headers {
        id: u32,
        finished: bool,
    },
    Reset {
        id: u32,
    },
    /// The peer has flow control; the initial window if it set one.
    Settings {
        window: Option<u32>,
    },
    Window {
        id: u32,
        delta: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
}

/// Takes bytes and gives events.
#[derive(Debug)]
pub(super) struct Decoder {
    inflater: Inflater,
    data: Option<Data>,
}

/// The data frame that is being read.
#[derive(Debug)]
struct Data {
    id: u32,
    left: usize,
    fin: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { inflater: Inflater::new(), data: None }
    }

    /// The next event in `input`, taking its bytes; `None` when more are needed. After an error
    /// the rest makes no sense.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, ProtocolError> {
        loop {
            if let Some(data) = self.data.take() {
                return Ok(self.piece(data, input));
            }
            let Some(header) = input.first_chunk::<HEADER>() else { return Ok(None) };
            let (first, second) = header.split_at(4);
            let first = u32::from_be_bytes(first.try_into().unwrap_or_default());
            let second = u32::from_be_bytes(second.try_into().unwrap_or_default());
            let [flags, ..] = second.to_be_bytes();
            let length = usize::try_from(second & 0x00ff_ffff).unwrap_or(usize::MAX);
            if first & !ID_MASK == 0 {
                input.advance(HEADER);
                self.data = Some(Data { id: first, left: length, fin: flags & FLAG_FIN != 0 });
                continue;
            }
            let [high, low, kind_high, kind_low] = first.to_be_bytes();
            let version = u16::from_be_bytes([high & 0x7f, low]);
            let kind = u16::from_be_bytes([kind_high, kind_low]);
            if version != VERSION {
                return Err(ProtocolError::Version(version));
            }
            if length > CONTROL {
                return Err(ProtocolError::Length { kind, length });
            }
            if input.len() < HEADER + length {
                return Ok(None);
            }
            input.advance(HEADER);
            let body = input.split_to(length);
            if let Some(event) = self.control(kind, flags, &body)? {
                return Ok(Some(event));
            }
        }
    }

    fn piece(&mut self, mut data: Data, input: &mut BytesMut) -> Option<Event> {
        let length = data.left.min(input.len());
        data.left -= length;
        let last = data.left == 0;
        if length == 0 && !last {
            self.data = Some(data);
            return None;
        }
        // A copy, so that a small piece does not keep a whole buffer.
        let bytes = Bytes::copy_from_slice(&input[..length]);
        input.advance(length);
        let event = Event::Data { id: data.id, bytes, finished: last && data.fin };
        if !last {
            self.data = Some(data);
        }
        Some(event)
    }

    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        body: &[u8],
    ) -> Result<Option<Event>, ProtocolError> {
        let wrong = ProtocolError::Length { kind, length: body.len() };
        let finished = flags & FLAG_FIN != 0;
        let event = match kind {
            SYN_STREAM => {
                let (fixed, block) = body.split_at_checked(10).ok_or(wrong)?;
                let headers = self.inflater.read(block)?;
                let unidirectional = flags & FLAG_UNIDIRECTIONAL != 0;
                Event::Opened { id: id(fixed), headers, finished, unidirectional }
            }
            SYN_REPLY | HEADERS => {
                let (fixed, block) = body.split_at_checked(4).ok_or(wrong)?;
                // Read even when nobody wants them: they are part of the context.
                self.inflater.read(block)?;
                Event::Headers { id: id(fixed), finished }
            }
            RST_STREAM if body.len() == 8 => Event::Reset { id: id(body) },
            SETTINGS => Event::Settings { window: initial_window(body)? },
            PING if body.len() == 4 => Event::Ping { id: number(body) },
            GOAWAY if body.len() == 8 => Event::GoAway,
            WINDOW_UPDATE if body.len() == 8 => {
                Event::Window { id: id(body), delta: number(&body[4..]) & ID_MASK }
            }
            RST_STREAM | PING | GOAWAY | WINDOW_UPDATE => return Err(wrong),
            // The draft says that unknown control frames are ignored (section 2.2.1).
            _ => return Ok(None),
        };
        Ok(Some(event))
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |four| u32::from_be_bytes(*four))
}

fn id(bytes: &[u8]) -> u32 {
    number(bytes) & ID_MASK
}

/// The initial window, if these settings set one.
fn initial_window(body: &[u8]) -> Result<Option<u32>, ProtocolError> {
    let wrong = ProtocolError::Length { kind: SETTINGS, length: body.len() };
    let Some((count, entries)) = body.split_first_chunk::<4>() else { return Err(wrong) };
    let count = usize::try_from(u32::from_be_bytes(*count)).unwrap_or(usize::MAX);
    if Some(entries.len()) != count.checked_mul(8) {
        return Err(wrong);
    }
    let window = entries
        .chunks_exact(8)
        .find(|entry| number(entry) & 0x00ff_ffff == SETTINGS_INITIAL_WINDOW)
        .map(|entry| number(&entry[4..]) & ID_MASK);
    Ok(window)
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, body: &[u8]) {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX) & 0x00ff_ffff;
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length);
    out.put_slice(body);
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let mut body = [0; 8];
    body[..4].copy_from_slice(&first.to_be_bytes());
    body[4..].copy_from_slice(&second.to_be_bytes());
    body
}

/// The replies of one direction.
///
/// They have no headers, so their blocks are always the same, and stored: that saves a compressor
/// of some hundred kilobytes for each connection.
#[derive(Debug, Default)]
pub(super) struct Replies {
    begun: bool,
}

impl Replies {
    /// Begins a zlib stream with the dictionary, by its Adler-32.
    const BEGINNING: [u8; 6] = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
    /// A stored block of four bytes (no headers), and the empty one that marks a flush.
    const NONE: [u8; 14] = [0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

    /// Accepts a stream.
    pub(super) fn write(&mut self, out: &mut BytesMut, id: u32) {
        let mut body = id.to_be_bytes().to_vec();
        if !std::mem::replace(&mut self.begun, true) {
            body.extend(Self::BEGINNING);
        }
        body.extend(Self::NONE);
        control(out, SYN_REPLY, 0, &body);
    }
}

pub(super) fn reset(out: &mut BytesMut, id: u32, why: Reset) {
    control(out, RST_STREAM, 0, &pair(id, why as u32));
}

pub(super) fn ping(out: &mut BytesMut, id: u32) {
    control(out, PING, 0, &id.to_be_bytes());
}

pub(super) fn window(out: &mut BytesMut, id: u32, delta: u32) {
    control(out, WINDOW_UPDATE, 0, &pair(id, delta & ID_MASK));
}

pub(super) fn go_away(out: &mut BytesMut, last: u32, why: Goodbye) {
    control(out, GOAWAY, 0, &pair(last, why as u32));
}

/// The header of a data frame of `length` bytes, at most 16 MiB.
pub(super) fn data(id: u32, length: usize, finished: bool) -> [u8; HEADER] {
    let flags = if finished { u32::from(FLAG_FIN) << 24 } else { 0 };
    pair(id & ID_MASK, flags | (u32::try_from(length).unwrap_or(0) & 0x00ff_ffff))
}

/// Opens a stream, as a client does.
#[cfg(test)]
pub(super) fn open(out: &mut BytesMut, deflater: &mut Deflater, id: u32, headers: &Headers) {
    let mut body = pair(id, 0).to_vec();
    body.extend([0, 0]);
    body.extend(deflater.write(headers).unwrap());
    control(out, SYN_STREAM, 0, &body);
}

/// Sets the initial window, as a client with flow control does.
#[cfg(test)]
pub(super) fn settings(out: &mut BytesMut, initial_window: u32) {
    let mut body = 1u32.to_be_bytes().to_vec();
    body.extend(pair(SETTINGS_INITIAL_WINDOW, initial_window));
    control(out, SETTINGS, 0, &body);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(String, String)]) -> Headers {
        Headers(pairs.to_vec())
    }

    /// All events of some bytes that come in pieces, with the pieces of data frames joined.
    fn decode(wire: &[u8], step: usize) -> Result<Vec<Event>, ProtocolError> {
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::new();
        let mut events: Vec<Event> = Vec::new();
        for piece in wire.chunks(step.max(1)) {
            buffer.extend_from_slice(piece);
            while let Some(event) = decoder.next(&mut buffer)? {
                match (events.last_mut(), event) {
                    (
                        Some(Event::Data { id, bytes, finished }),
                        Event::Data { id: same, bytes: more, finished: end },
                    ) if *id == same && !*finished => {
                        *bytes = [&bytes[..], &more[..]].concat().into();
                        *finished = end;
                    }
                    (_, event) => events.push(event),
                }
            }
        }
        Ok(events)
    }

    fn every_frame() -> (Vec<u8>, Vec<Event>) {
        let mut deflater = Deflater::new().unwrap();
        let mut out = BytesMut::new();
        let sent = headers(&[("streamtype".to_owned(), "data".to_owned())]);
        open(&mut out, &mut deflater, 1, &sent);
        out.extend_from_slice(&data(1, 5, false));
        out.extend_from_slice(b"hello");
        settings(&mut out, 100);
        // A type that nobody knows.
        control(&mut out, 77, 3, b"whatever");
        ping(&mut out, 3);
        window(&mut out, 1, 70_000);
        out.extend_from_slice(&data(1, 0, true));
        reset(&mut out, 1, Reset::Cancel);
        go_away(&mut out, 1, Goodbye::Ok);
        let opened = Event::Opened { id: 1, headers: sent, finished: false, unidirectional: false };
        let events = vec![
            opened,
            Event::Data { id: 1, bytes: Bytes::from_static(b"hello"), finished: false },
            Event::Settings { window: Some(100) },
            Event::Ping { id: 3 },
            Event::Window { id: 1, delta: 70_000 },
            Event::Data { id: 1, bytes: Bytes::new(), finished: true },
            Event::Reset { id: 1 },
            Event::GoAway,
        ];
        (out.to_vec(), events)
    }

    #[test]
    fn frames_come_back_whatever_the_pieces() {
        let (wire, events) = every_frame();
        for step in 1..wire.len() {
            assert_eq!(decode(&wire, step).unwrap(), events, "{step}");
        }
    }

    #[test]
    fn replies_are_read_by_zlib() {
        let (mut replies, mut out) = (Replies::default(), BytesMut::new());
        for id in [1, 3, 5] {
            replies.write(&mut out, id);
        }
        let events = decode(&out, usize::MAX).unwrap();
        let reply = |id| Event::Headers { id, finished: false };
        assert_eq!(events, [reply(1), reply(3), reply(5)]);
    }

    #[test]
    fn a_long_data_frame_costs_no_memory() {
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::from(&data(5, 0x00ff_ffff, true)[..]);
        assert_eq!(decoder.next(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(b"ab");
        let bytes = Bytes::from_static(b"ab");
        let piece = Some(Event::Data { id: 5, bytes, finished: false });
        assert_eq!(decoder.next(&mut buffer).unwrap(), piece);
        assert_eq!(decoder.next(&mut buffer).unwrap(), None);
    }

    #[test]
    fn malformed_frames_are_refused() {
        let refused = |bytes: &[u8]| decode(bytes, usize::MAX).unwrap_err();
        assert_eq!(refused(&[0x80, 2, 0, 1, 0, 0, 0, 0]), ProtocolError::Version(2));
        let length = |kind, length| ProtocolError::Length { kind, length };
        assert_eq!(refused(&[0x80, 3, 0, 1, 0, 0, 0, 0]), length(SYN_STREAM, 0));
        assert_eq!(refused(&[0x80, 3, 0, 6, 0, 0, 0, 0]), length(PING, 0));
        assert_eq!(refused(&[0x80, 3, 0, 1, 0, 0xff, 0, 0]), length(SYN_STREAM, 0x00ff_0000));
        let mut out = BytesMut::new();
        control(&mut out, SETTINGS, 0, &[0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 1]);
        assert_eq!(refused(&out), length(SETTINGS, 12));
        out.clear();
        control(&mut out, SYN_STREAM, 0, &[0; 20]);
        assert_eq!(refused(&out), ProtocolError::Headers);
    }

    proptest! {
        #[test]
        fn headers_come_back(
            pairs in prop::collection::btree_map("[a-z-]{1,20}", "[ -~]{0,200}", 0..20),
            step in 1usize..200,
        ) {
            let sent = headers(&pairs.into_iter().collect::<Vec<_>>());
            let mut deflater = Deflater::new().unwrap();
            let mut out = BytesMut::new();
            for id in [1, 3] {
                open(&mut out, &mut deflater, id, &sent);
            }
            let events = decode(&out, step).unwrap();
            prop_assert_eq!(events.len(), 2);
            for event in events {
                let Event::Opened { headers, .. } = event else { panic!("{event:?}") };
                prop_assert_eq!(&headers, &sent);
            }
        }

        #[test]
        fn any_bytes_come_to_an_end(
            wire in prop::collection::vec(any::<u8>(), 0..2000),
            step in 1usize..300,
        ) {
            let _ = decode(&wire, step);
        }

        #[test]
        fn damaged_frames_come_to_an_end(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            step in 1usize..50,
        ) {
            let (mut wire, _) = every_frame();
            for (at, byte) in changes {
                let at = at.index(wire.len());
                wire[at] = byte;
            }
            let whole = decode(&wire, usize::MAX);
            // How it was cut does not matter for what is wrong.
            prop_assert_eq!(decode(&wire, step).err(), whole.err());
        }
    }
}
