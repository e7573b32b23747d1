//! Commands that do one thing to each of some containers.

use pouch_client::{RemoveContainer, Stop};

use super::{Outcome, confirmed, each, filters};
use crate::context::Session;
use crate::create::update_body;
use crate::flags::plain::{KillFlags, PruneFlags, RmFlags, StopFlags};
use crate::flags::resources::UpdateFlags;
use crate::{output, units};

/// `pouch stop`.
pub(crate) async fn stop(session: &Session, flags: StopFlags) -> Outcome {
    let options = Stop { timeout: flags.timeout, signal: flags.signal };
    let (client, options) = (&session.client, &options);
    each(&flags.containers, |name| async move {
        client.stop_container(name, options).await.map(|()| name.to_owned())
    })
    .await
}

/// `pouch restart`.
pub(crate) async fn restart(session: &Session, flags: StopFlags) -> Outcome {
    let options = Stop { timeout: flags.timeout, signal: flags.signal };
    let (client, options) = (&session.client, &options);
    each(&flags.containers, |name| async move {
        client.restart_container(name, options).await.map(|()| name.to_owned())
    })
    .await
}

/// `pouch kill`.
pub(crate) async fn kill(session: &Session, flags: KillFlags) -> Outcome {
    let (client, signal) = (&session.client, &flags.signal);
    each(&flags.containers, |name| async move {
        client.kill_container(name, signal).await.map(|()| name.to_owned())
    })
    .await
}

/// `pouch pause`.
pub(crate) async fn pause(session: &Session, names: &[String]) -> Outcome {
    let client = &session.client;
    each(names, |name| async move { client.pause_container(name).await.map(|()| name.to_owned()) })
        .await
}

/// `pouch unpause`.
pub(crate) async fn unpause(session: &Session, names: &[String]) -> Outcome {
    let client = &session.client;
    each(
        names,
        |name| async move { client.unpause_container(name).await.map(|()| name.to_owned()) },
    )
    .await
}

/// `pouch rm`.
pub(crate) async fn rm(session: &Session, flags: RmFlags) -> Outcome {
    let remove = RemoveContainer { force: flags.force, volumes: flags.volumes, link: flags.link };
    let client = &session.client;
    each(&flags.containers, |name| async move {
        match client.remove_container(name, remove).await {
            // Forced removal of what is gone has reached its aim.
            Err(error) if remove.force && error.is_not_found() => Ok(name.to_owned()),
            other => other.map(|()| name.to_owned()),
        }
    })
    .await
}

/// `pouch update`.
pub(crate) async fn update(session: &Session, flags: UpdateFlags) -> Outcome {
    let body = update_body(&flags)?;
    let (client, body) = (&session.client, &body);
    each(&flags.containers, |name| async move {
        let updated = client.update_container(name, body).await?;
        for warning in updated.warnings.unwrap_or_default() {
            output::note(&warning);
        }
        Ok(name.to_owned())
    })
    .await
}

/// `pouch container prune`.
pub(crate) async fn prune(session: &Session, flags: PruneFlags) -> Outcome {
    let filters = filters(&flags.filter)?;
    if !flags.force && !confirmed("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let pruned = session.client.prune_containers(&filters).await?;
    let deleted = pruned.containers_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        output::line(&format!("Deleted Containers:\n{}\n", deleted.join("\n")))?;
    }
    let bytes = i64::try_from(pruned.space_reclaimed).unwrap_or(i64::MAX);
    output::line(&format!("Total reclaimed space: {}", units::size4(bytes)))?;
    Ok(0)
}
