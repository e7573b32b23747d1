//! `logs`.

use jiff::Timestamp;
use pouch_client::{Framing, Logs};

use super::Outcome;
use crate::context::Session;
use crate::flags::plain::LogsFlags;
use crate::{streams, units};

/// `pouch logs`.
pub(crate) async fn logs(session: &Session, flags: LogsFlags) -> Outcome {
    let container = session.client.inspect_container(&flags.container).await?;
    let now = Timestamp::now();
    let moment =
        |text: &str| if text.is_empty() { String::new() } else { units::moment(text, now) };
    let options = Logs {
        stdout: true,
        stderr: true,
        follow: flags.follow,
        timestamps: flags.timestamps,
        details: flags.details,
        since: moment(&flags.since),
        until: moment(&flags.until),
        tail: flags.tail,
    };
    let body = session.client.logs(&container.id, &options).await?;
    let framing = if container.config.tty { Framing::Raw } else { Framing::Multiplexed };
    streams::copy_output(body.into_reader(), framing).await?;
    Ok(0)
}
