//! How a command's end is told on the error stream.
//!
//! From `v4.channel.k8s.io` on it is a `Status` of Kubernetes' API in JSON, also for success;
//! before, a text, and nothing for success. A client takes an error stream that ends empty for
//! success, so whatever goes wrong has to be said there.

use bytes::Bytes;
use pouch_types::error::chain;
use serde::Serialize;

use crate::request::Command;

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With code 0, or without one that is told.
    Success,
    Exited(i32),
    Failed {
        kind: Command,
        text: String,
    },
}

impl Outcome {
    pub(crate) fn failed(kind: Command, cause: &dyn std::error::Error) -> Self {
        Self::Failed { kind, text: chain(cause) }
    }
}

/// What a client understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wording {
    Text,
    Status,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Details {
    causes: [StatusCause; 1],
}

/// `metav1.StatusCause` (apimachinery 0.36), whose type is called `reason` on the wire.
#[derive(Serialize)]
struct StatusCause {
    reason: &'static str,
    message: String,
}

impl Wording {
    /// The message for the error stream; may be empty.
    pub(crate) fn say(self, outcome: &Outcome) -> Bytes {
        let status = match outcome {
            Outcome::Success | Outcome::Exited(0) => Status {
                status: "Success",
                message: String::new(),
                reason: None,
                details: None,
                code: None,
            },
            Outcome::Exited(code) => {
                // Clients parse eight bits.
                let code = u8::try_from(*code).unwrap_or(u8::MAX);
                Status {
                    status: "Failure",
                    message: format!("command terminated with non-zero exit code: {code}"),
                    reason: Some("NonZeroExitCode"),
                    details: Some(Details {
                        causes: [StatusCause { reason: "ExitCode", message: code.to_string() }],
                    }),
                    code: None,
                }
            }
            Outcome::Failed { kind, text } => {
                let what = match kind {
                    Command::Exec => "error executing command in container",
                    Command::Attach => "error attaching to container",
                };
                Status {
                    status: "Failure",
                    message: format!("Internal error occurred: {what}: {text}"),
                    reason: Some("InternalError"),
                    details: None,
                    code: Some(500),
                }
            }
        };
        match self {
            Self::Text => Bytes::from(status.message),
            // A struct of texts and numbers always serializes.
            Self::Status => serde_json::to_vec(&status).map(Bytes::from).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(wording: Wording, outcome: &Outcome) -> String {
        String::from_utf8(wording.say(outcome).to_vec()).unwrap()
    }

    #[test]
    fn statuses_are_those_of_kubelet() {
        assert_eq!(said(Wording::Status, &Outcome::Success), r#"{"status":"Success"}"#);
        assert_eq!(said(Wording::Status, &Outcome::Exited(0)), r#"{"status":"Success"}"#);
        assert_eq!(
            said(Wording::Status, &Outcome::Exited(3)),
            concat!(
                r#"{"status":"Failure","#,
                r#""message":"command terminated with non-zero exit code: 3","#,
                r#""reason":"NonZeroExitCode","#,
                r#""details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
            )
        );
        let cause = std::io::Error::other("no such program");
        assert_eq!(
            said(Wording::Status, &Outcome::failed(Command::Exec, &cause)),
            concat!(
                r#"{"status":"Failure","message":"Internal error occurred: "#,
                r#"error executing command in container: no such program","#,
                r#""reason":"InternalError","code":500}"#
            )
        );
    }

    #[test]
    fn old_clients_get_text_and_nothing_for_success() {
        assert_eq!(said(Wording::Text, &Outcome::Success), "");
        assert_eq!(
            said(Wording::Text, &Outcome::Exited(-1)),
            "command terminated with non-zero exit code: 255"
        );
        let gone = Outcome::Failed { kind: Command::Attach, text: "gone".to_owned() };
        assert_eq!(
            said(Wording::Text, &gone),
            "Internal error occurred: error attaching to container: gone"
        );
    }
}
