//! Which protocol a client gets: what it asks for in headers, and the answer.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use crate::request::{StreamSet, Work};
use crate::status::Wording;
use crate::websocket::{self, Codec, Direction, HandshakeError};

/// Answers of this server are short.
pub(crate) type Answer = Response<Full<Bytes>>;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Stands in `Upgrade`.
const SPDY: &str = "SPDY/3.1";
/// Carries SPDY in a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// The one version of port forwarding.
const FORWARD: &str = "portforward.k8s.io";

/// Versions of `channel.k8s.io` over SPDY, best first.
const SPDY_COMMANDS: [(&str, Version); 4] = [
    ("v4.channel.k8s.io", Version { wording: Wording::Status, resizes: true }),
    ("v3.channel.k8s.io", Version { wording: Wording::Text, resizes: true }),
    ("v2.channel.k8s.io", Version { wording: Wording::Text, resizes: false }),
    ("channel.k8s.io", Version { wording: Wording::Text, resizes: false }),
];

/// Of `channel.k8s.io` over WebSockets; a client that asks for none gets the first form, too.
const WEBSOCKET_COMMANDS: [(&str, Codec, Wording); 6] = [
    ("v5.channel.k8s.io", Codec::Closable, Wording::Status),
    ("v4.channel.k8s.io", Codec::Binary, Wording::Status),
    ("v4.base64.channel.k8s.io", Codec::Base64, Wording::Status),
    ("channel.k8s.io", Codec::Binary, Wording::Text),
    ("base64.channel.k8s.io", Codec::Base64, Wording::Text),
    ("", Codec::Binary, Wording::Text),
];

/// Of port forwarding over WebSockets without a tunnel.
const WEBSOCKET_FORWARDS: [(&str, Codec); 3] = [
    ("v4.channel.k8s.io", Codec::Binary),
    ("v4.base64.channel.k8s.io", Codec::Base64),
    ("", Codec::Binary),
];

/// What differs between versions of commands over SPDY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) wording: Wording,
    /// A terminal has a stream for its sizes.
    pub(crate) resizes: bool,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    SpdyCommand(Version),
    SpdyForward,
    TunnelledForward,
    ChannelCommand(Codec, Wording),
    ChannelForward(Codec),
}

/// Finds the protocol for `work`, and the answer that begins it.
pub(crate) fn negotiate(
    headers: &HeaderMap,
    work: &Work,
) -> Result<(Protocol, Answer), Box<Answer>> {
    if asks_for(headers, "websocket") {
        return negotiate_websocket(headers, work);
    }
    let offered: Vec<&str> = list(headers, &STREAM_PROTOCOL).collect();
    if offered.is_empty() {
        let text = format!("unable to upgrade: no protocol in header {STREAM_PROTOCOL}");
        return Err(Box::new(answer(StatusCode::BAD_REQUEST, &text)));
    }
    let (supported, chosen) = match work {
        Work::Command { .. } => (
            SPDY_COMMANDS.iter().map(|(name, _)| *name).collect(),
            choose(&offered, &SPDY_COMMANDS, |(name, _)| name)
                .map(|(name, version)| (*name, Protocol::SpdyCommand(*version))),
        ),
        Work::Forward { .. } => (
            vec![FORWARD],
            choose(&offered, &[FORWARD], |name| name).map(|name| (*name, Protocol::SpdyForward)),
        ),
    };
    let Some((name, protocol)) = chosen else {
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, \
             server accepts {supported:?}"
        );
        let mut refusal = answer(StatusCode::FORBIDDEN, &text);
        for name in supported {
            refusal.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
        }
        return Err(Box::new(refusal));
    };
    if !asks_for(headers, SPDY) {
        let text = "unable to upgrade: missing upgrade headers in request";
        return Err(Box::new(answer(StatusCode::BAD_REQUEST, text)));
    }
    let mut switch = switching(SPDY);
    switch.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    Ok((protocol, switch))
}

fn negotiate_websocket(
    headers: &HeaderMap,
    work: &Work,
) -> Result<(Protocol, Answer), Box<Answer>> {
    let accept = websocket::accept(headers).map_err(|error| {
        let mut refusal = answer(StatusCode::BAD_REQUEST, &error.to_string());
        if error == HandshakeError::Version {
            *refusal.status_mut() = StatusCode::UPGRADE_REQUIRED;
            let version = HeaderValue::from_static("13");
            refusal.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, version);
        }
        Box::new(refusal)
    })?;
    let mut offered: Vec<&str> = list(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        offered.push("");
    }
    let chosen = match work {
        Work::Command { .. } => choose(&offered, &WEBSOCKET_COMMANDS, |(name, ..)| name)
            .map(|(name, codec, wording)| (*name, Protocol::ChannelCommand(*codec, *wording))),
        Work::Forward { .. } => offered.iter().find_map(|offer| match *offer {
            TUNNEL => Some((TUNNEL, Protocol::TunnelledForward)),
            other => WEBSOCKET_FORWARDS
                .iter()
                .find(|(name, _)| *name == other)
                .map(|(name, codec)| (*name, Protocol::ChannelForward(*codec))),
        }),
    };
    let Some((name, protocol)) = chosen else {
        let text = format!("requested protocols are not supported: {offered:?}");
        return Err(Box::new(answer(StatusCode::FORBIDDEN, &text)));
    };
    let mut switch = switching("websocket");
    switch.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !name.is_empty() {
        let name = HeaderValue::from_static(name);
        switch.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    Ok((protocol, switch))
}

/// The channels of a command: its descriptors, the error stream, the sizes of its terminal.
pub(crate) fn command_channels(streams: StreamSet) -> [Direction; 5] {
    let given = |wanted: bool, direction| if wanted { direction } else { Direction::Ignored };
    [
        given(streams.stdin, Direction::Client),
        given(streams.stdout, Direction::Server),
        given(streams.stderr, Direction::Server),
        Direction::Server,
        Direction::Client,
    ]
}

/// The first of the client's wishes that there is.
fn choose<'a, T>(offered: &[&str], there: &'a [T], name: impl Fn(&T) -> &str) -> Option<&'a T> {
    offered.iter().find_map(|offer| there.iter().find(|entry| name(entry) == *offer))
}

/// `Connection: Upgrade` and `Upgrade: protocol`, as loosely as clients of kubelet may put it.
fn asks_for(headers: &HeaderMap, protocol: &str) -> bool {
    list(headers, &header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"))
        && list(headers, &header::UPGRADE).any(|word| word.eq_ignore_ascii_case(protocol))
}

/// The words of a header that may come several times and hold several.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

fn switching(protocol: &'static str) -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// A refusal in a line of text.
pub(crate) fn answer(status: StatusCode, text: &str) -> Answer {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
