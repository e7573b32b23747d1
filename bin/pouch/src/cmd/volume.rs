//! `volume`.

use pouch_client::VolumeRemoval;
use pouch_docker_types::volume::{Volume, VolumeCreate};

use super::{Outcome, confirmed, each, filters};
use crate::context::Session;
use crate::create::pairs;
use crate::failure::Failure;
use crate::flags::plain::{VolumeCreateFlags, VolumeListFlags, VolumePruneFlags, VolumeRmFlags};
use crate::listing::{Format, Layout, join_labels, labels_of};
use crate::template::{Row, Value};
use crate::{output, units};

static LAYOUT: Layout = Layout {
    titles: &[
        ("Availability", "AVAILABILITY"),
        ("Driver", "DRIVER"),
        ("Group", "GROUP"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Size", "SIZE"),
        ("Status", "STATUS"),
    ],
    table: "{{.Driver}}\t{{.Name}}",
    quiet: "{{.Name}}",
    raw: "name: {{.Name}}\ndriver: {{.Driver}}\n",
};

/// `pouch volume ls`.
pub(crate) async fn ls(session: &Session, flags: VolumeListFlags) -> Outcome {
    if flags.cluster {
        return Err(Failure::unsupported("--cluster", "cluster volumes need a swarm"));
    }
    let flags = flags.list;
    let format = Format::new(
        &LAYOUT,
        flags.format.as_deref(),
        Some(&session.config.volumes_format),
        flags.quiet,
    )?;
    let mut volumes = session.client.volumes(&filters(&flags.filter)?).await?.volumes;
    volumes.sort_by(|a, b| crate::natural::compare(&a.name, &b.name));
    output::print(&format.render(volumes.iter().map(row).collect())?)?;
    Ok(0)
}

pub(crate) fn row(volume: &Volume) -> Row {
    let labels = volume.labels.clone().unwrap_or_default();
    let usage = volume.usage_data.as_ref();
    let links = usage.map_or_else(|| "N/A".to_owned(), |u| u.ref_count.to_string());
    let size = usage.map_or_else(|| "N/A".to_owned(), |u| units::size4(u.size));
    // Three columns are of cluster volumes.
    let columns = vec![
        ("Availability", Value::str("N/A")),
        ("Driver", Value::str(volume.driver.as_str())),
        ("Group", Value::str("N/A")),
        ("Labels", Value::str(join_labels(&labels))),
        ("Links", Value::str(links)),
        ("Mountpoint", Value::str(volume.mountpoint.as_str())),
        ("Name", Value::str(volume.name.as_str())),
        ("Scope", Value::str(volume.scope.as_str())),
        ("Size", Value::str(size)),
        ("Status", Value::str("N/A")),
    ];
    Row { columns, labels: labels_of(&labels) }
}

/// `pouch volume create`.
pub(crate) async fn create(session: &Session, flags: VolumeCreateFlags) -> Outcome {
    flags.cluster.refuse()?;
    let name = match flags.volume {
        Some(_) if !flags.name.is_empty() => {
            return Err(Failure::new(
                "conflicting options: either specify --name or provide positional arg, not both",
            ));
        }
        Some(volume) => volume,
        None => flags.name,
    };
    let create = VolumeCreate {
        name,
        driver: flags.driver,
        driver_opts: pairs(&flags.opt, "--opt")?,
        labels: pairs(&flags.label, "--label")?,
        ..VolumeCreate::default()
    };
    output::line(&session.client.create_volume(&create).await?.name)?;
    Ok(0)
}

/// `pouch volume rm`.
pub(crate) async fn rm(session: &Session, flags: VolumeRmFlags) -> Outcome {
    let removal = if flags.force { VolumeRemoval::Forced } else { VolumeRemoval::Orderly };
    let client = &session.client;
    each(&flags.volumes, |name| async move {
        match client.remove_volume(name, removal).await {
            // Forced removal of what is gone has reached its aim.
            Err(error) if removal == VolumeRemoval::Forced && error.is_not_found() => {}
            other => other?,
        }
        Ok(name.to_owned())
    })
    .await
}

/// `pouch volume prune`.
pub(crate) async fn prune(session: &Session, flags: VolumePruneFlags) -> Outcome {
    let mut filters = filters(&flags.prune.filter)?;
    // Below API 1.42 there is no such filter, and all unused volumes go.
    let selective =
        session.client.version().await? >= pouch_client::ApiVersion { major: 1, minor: 42 };
    if flags.all && selective {
        filters.add("all", "true");
    }
    let warning = if flags.all || !selective {
        "WARNING! This will remove all local volumes not used by at least one container."
    } else {
        "WARNING! This will remove anonymous local volumes not used by at least one container."
    };
    if !flags.prune.force && !confirmed(warning)? {
        return Ok(0);
    }
    let pruned = session.client.prune_volumes(&filters).await?;
    let deleted = pruned.volumes_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        output::line(&format!("Deleted Volumes:\n{}\n", deleted.join("\n")))?;
    }
    let bytes = i64::try_from(pruned.space_reclaimed).unwrap_or(i64::MAX);
    output::line(&format!("Total reclaimed space: {}", units::size4(bytes)))?;
    Ok(0)
}
