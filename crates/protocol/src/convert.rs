//! Packing of `Any` and the two representations of time.
//!
//! containerd names types by their bare message name, without the `type.googleapis.com/` prefix
//! of the protobuf documentation; readers here accept both, writers use the bare one.

use pouch_types::error::{Classified, ErrorKind};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;

/// An `Any` that does not hold what its reader wants.
#[derive(Debug, thiserror::Error)]
pub enum UnexpectedType {
    /// Another message type.
    #[error("expected a {want}, got {got:?}")]
    Url {
        /// Message name that the reader wants.
        want: &'static str,
        /// Type URL that came.
        got: String,
    },
    /// The right type, but not its encoding.
    #[error("malformed {want}")]
    Encoding {
        /// Message name that the reader wants.
        want: &'static str,
        /// What the decoder said.
        #[source]
        source: protobuf::Error,
    },
}

impl Classified for UnexpectedType {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// `message` as an `Any` named `type_name` (`containerd.events.TaskExit`).
///
/// # Errors
/// When the message is larger than protobuf's 2 GiB.
pub fn any(type_name: &str, message: &impl Message) -> protobuf::Result<Any> {
    Ok(Any { type_url: type_name.to_owned(), value: message.write_to_bytes()?, ..Any::default() })
}

/// The message name in an `Any`'s type URL: what follows the last slash.
#[must_use]
pub fn any_url(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// The message inside `any`, if it is a `type_name`.
///
/// # Errors
/// See [`UnexpectedType`].
pub fn unpack<M: Message>(any: &Any, type_name: &'static str) -> Result<M, UnexpectedType> {
    if any_url(any) != type_name {
        return Err(UnexpectedType::Url {
            want: type_name,
            got: any.type_url.chars().take(200).collect(),
        });
    }
    M::parse_from_bytes(&any.value)
        .map_err(|source| UnexpectedType::Encoding { want: type_name, source })
}

/// `time` for the wire.
#[must_use]
pub fn timestamp(time: jiff::Timestamp) -> Timestamp {
    // jiff keeps both parts of one sign; protobuf wants nanoseconds counted forwards.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    Timestamp { seconds, nanos, ..Timestamp::default() }
}

/// The time of `stamp`; `None` outside the years that jiff counts (-9999 to 9999).
#[must_use]
pub fn to_jiff(stamp: &Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(stamp.seconds, stamp.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::TaskOOM;

    #[test]
    fn any_takes_both_spellings_and_refuses_others() {
        let oom = TaskOOM { container_id: "c1".into(), ..TaskOOM::default() };
        let mut packed = any("containerd.events.TaskOOM", &oom).unwrap();
        assert_eq!(packed.type_url, "containerd.events.TaskOOM");
        assert_eq!(unpack::<TaskOOM>(&packed, "containerd.events.TaskOOM").unwrap(), oom);
        packed.type_url.insert_str(0, "type.googleapis.com/");
        assert_eq!(unpack::<TaskOOM>(&packed, "containerd.events.TaskOOM").unwrap(), oom);
        assert!(unpack::<TaskOOM>(&packed, "containerd.events.TaskExit").is_err());
        packed.value = vec![0x0a, 0xff];
        assert!(matches!(
            unpack::<TaskOOM>(&packed, "containerd.events.TaskOOM"),
            Err(UnexpectedType::Encoding { .. })
        ));
    }

    #[test]
    fn times_round_trip_before_and_after_the_epoch() {
        for text in ["2026-01-02T03:04:05.123456789Z", "1969-12-31T23:59:59.25Z"] {
            let time: jiff::Timestamp = text.parse().unwrap();
            let wire = timestamp(time);
            assert!((0..1_000_000_000).contains(&wire.nanos), "{wire:?}");
            assert_eq!(to_jiff(&wire), Some(time));
        }
        let absurd = Timestamp { seconds: i64::MAX, ..Timestamp::default() };
        assert_eq!(to_jiff(&absurd), None);
    }

    /// Field numbers are the contract: a request as containerd's own encoder writes it.
    #[test]
    fn decodes_the_bytes_of_another_encoder() {
        let wire =
            b"\x0a\x02c1\x12\x02/b\x1a\x13\x0a\x07overlay\x12\x03ovl\"\x03a=b \x01*\x01i2\x01o";
        let request = crate::task::CreateTaskRequest::parse_from_bytes(wire).unwrap();
        assert_eq!((request.id.as_str(), request.bundle.as_str()), ("c1", "/b"));
        assert_eq!(request.rootfs[0].type_, "overlay");
        assert_eq!(request.rootfs[0].options, ["a=b"]);
        assert!(request.terminal);
        assert_eq!((request.stdin.as_str(), request.stdout.as_str()), ("i", "o"));
    }
}
