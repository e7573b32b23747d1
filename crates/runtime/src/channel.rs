//! The conversation between the command and the process it makes, over a sequenced-packet pair.
//!
//! One packet is one message, so there is no framing and no half-read message; the end of file
//! says that the other side is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{RuntimeError, SystemContext};

/// The longest error text that travels; the rest is cut.
const MESSAGE_MAX: usize = 16 * 1024;

/// What the two sides say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// To the process: cgroups, limits and id maps are in place.
    Go,
    /// To the command: run the hooks that belong into the runtime's namespaces.
    HooksRequested,
    /// To the process: they ran.
    HooksDone,
    /// To the command: this is the pid of the process that goes on in my place.
    Successor(i32),
    /// To the command: everything but the execution is done.
    Ready,
    /// To the command: it failed, and why.
    Failed(String),
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Go => b"g".to_vec(),
            Self::HooksRequested => b"h".to_vec(),
            Self::HooksDone => b"d".to_vec(),
            Self::Successor(pid) => [b"p".as_slice(), &pid.to_ne_bytes()].concat(),
            Self::Ready => b"r".to_vec(),
            Self::Failed(text) => {
                let cut = text.len().min(MESSAGE_MAX - 1);
                [b"e".as_slice(), text.as_bytes().get(..cut).unwrap_or_default()].concat()
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        Some(match tag {
            b'g' => Self::Go,
            b'h' => Self::HooksRequested,
            b'd' => Self::HooksDone,
            b'p' => Self::Successor(i32::from_ne_bytes(rest.try_into().ok()?)),
            b'r' => Self::Ready,
            b'e' => Self::Failed(String::from_utf8_lossy(rest).into_owned()),
            _ => return None,
        })
    }
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

/// A connected pair: the command's end and the process's.
pub(crate) fn pair() -> Result<(Channel, Channel), RuntimeError> {
    let (a, b) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .call("socketpair")?;
    Ok((Channel { socket: a }, Channel { socket: b }))
}

impl Channel {
    /// In the new process: closes its copy of the command's end, without which it could not see
    /// the command die. The value itself belongs to the command's copy of the memory.
    pub(crate) fn close_copy(&self) {
        use std::os::fd::AsRawFd;
        // SAFETY: the new process has a descriptor table of its own and never uses this one; the
        // owner in the copied memory is not dropped, as the process ends by execution or _exit.
        unsafe { rustix::io::close(self.socket.as_raw_fd()) };
    }

    /// Bounds every later [`receive`](Self::receive).
    pub(crate) fn set_deadline(&self, limit: Duration) -> Result<(), RuntimeError> {
        set_socket_timeout(&self.socket, Timeout::Recv, Some(limit)).call("setsockopt")
    }

    pub(crate) fn send(&self, message: &Message) -> io::Result<()> {
        rustix::net::send(&self.socket, &message.encode(), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// `None` when the other side is gone without a word.
    pub(crate) fn receive(&self) -> io::Result<Option<Message>> {
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                Ok((_, length)) => {
                    return buffer
                        .get(..length)
                        .and_then(Message::decode)
                        .map(Some)
                        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_wire() {
        let (a, b) = pair().unwrap();
        for message in [
            Message::Go,
            Message::HooksRequested,
            Message::HooksDone,
            Message::Successor(-7),
            Message::Ready,
            Message::Failed("why: because".into()),
        ] {
            a.send(&message).unwrap();
            assert_eq!(b.receive().unwrap(), Some(message));
        }
        drop(a);
        assert_eq!(b.receive().unwrap(), None);
    }

    #[test]
    fn a_long_text_is_cut_and_not_refused() {
        let (a, b) = pair().unwrap();
        a.send(&Message::Failed("x".repeat(1 << 20))).unwrap();
        let Some(Message::Failed(text)) = b.receive().unwrap() else { panic!("no text") };
        assert_eq!(text.len(), MESSAGE_MAX - 1);
    }

    #[test]
    fn a_silent_peer_runs_into_the_deadline() {
        let (a, b) = pair().unwrap();
        b.set_deadline(Duration::from_millis(20)).unwrap();
        assert_eq!(b.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(a);
    }
}
