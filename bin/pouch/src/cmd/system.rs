//! `events`, `system df`, `system prune`, `system dial-stdio`.

use jiff::Timestamp;
use pouch_client::{ClientError, DiskUsageOf, EventRange};
use pouch_docker_types::container::ContainerSummary;
use pouch_docker_types::event::EventMessage;
use pouch_docker_types::system::DiskUsage;

use super::{Outcome, confirmed, filters, images, ps, volume};
use crate::context::Session;
use crate::failure::Failure;
use crate::flags::plain::{DfFlags, EventsFlags, SystemPruneFlags};
use crate::listing::{Format, Layout};
use crate::template::{Labels, Mode, Row, Template, Value};
use crate::{output, table, units};

/// `pouch events`.
pub(crate) async fn events(session: &Session, flags: EventsFlags) -> Outcome {
    let template = match flags.format.as_deref() {
        None | Some("") => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(text) => Some(Template::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))?),
    };
    let now = Timestamp::now();
    let moment =
        |text: &str| if text.is_empty() { String::new() } else { units::moment(text, now) };
    let range = EventRange {
        since: moment(&flags.since),
        until: moment(&flags.until),
        filters: filters(&flags.filter)?,
    };
    let mut events = session.client.events(&range).await?;
    while let Some(event) = events.next().await? {
        let line = match &template {
            None => event_line(&event),
            Some(template) => {
                let value = Value::from_serialize(&event)
                    .map_err(|error| Failure::new(format!("cannot encode the event: {error}")))?;
                template.render(&value, Mode::Data)?
            }
        };
        output::line(&line)?;
    }
    Ok(0)
}

/// `2026-11-21T10:00:00.000000000Z container start <id> (image=x, name=y)`.
fn event_line(event: &EventMessage) -> String {
    let mut line = String::new();
    let moment = if event.time_nano == 0 {
        Timestamp::from_second(event.time)
    } else {
        Timestamp::from_nanosecond(i128::from(event.time_nano))
    };
    if let Ok(moment) = moment {
        let zoned = moment.to_zoned(jiff::tz::TimeZone::system());
        let zone = if zoned.offset().is_zero() {
            "Z".to_owned()
        } else {
            zoned.strftime("%:z").to_string()
        };
        line.push_str(&zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f").to_string());
        line.push_str(&zone);
        line.push(' ');
    }
    line.push_str(&format!("{} {} {}", event.r#type, event.action, event.actor.id));
    let pairs: Vec<String> =
        event.actor.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !pairs.is_empty() {
        line.push_str(&format!(" ({})", pairs.join(", ")));
    }
    line
}

static DF: Layout = Layout {
    titles: &[
        ("Active", "ACTIVE"),
        ("Reclaimable", "RECLAIMABLE"),
        ("Size", "SIZE"),
        ("TotalCount", "TOTAL"),
        ("Type", "TYPE"),
    ],
    table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    quiet: "{{.Type}}",
    raw: "",
};

/// `pouch system df`.
pub(crate) async fn df(session: &Session, flags: DfFlags) -> Outcome {
    let usage = session.client.disk_usage(DiskUsageOf::Everything).await?;
    if flags.verbose {
        let text = match flags.format.as_deref() {
            None | Some("" | "table") => verbose(&usage),
            Some("json") => verbose_json(&usage)?,
            Some(_) => {
                let why = "with --verbose there are the table and json";
                return Err(Failure::unsupported("--format with a template", why));
            }
        };
        output::print(&text)?;
        return Ok(0);
    }
    let format = Format::new(&DF, flags.format.as_deref(), None, false)?;
    output::print(&format.render(summary(&usage))?)?;
    Ok(0)
}

/// A container's line without what its image holds, which has a line of its own.
fn container_row(container: &ContainerSummary, now: i64, cut: ps::Cut) -> Row {
    ps::row(&ContainerSummary { size_root_fs: 0, ..container.clone() }, now, cut)
}

fn verbose_json(usage: &DiskUsage) -> Result<String, Failure> {
    let now = units::now();
    let list = |rows: Vec<Row>| -> Result<String, Failure> {
        let format = Format::new(&DF, Some("json"), None, false)?;
        let lines = rows.into_iter().map(|row| format.line(row)).collect::<Result<Vec<_>, _>>()?;
        Ok(lines.join(","))
    };
    let images = image_rows(usage, true, now);
    let containers = usage.containers.iter().flatten();
    let containers = containers.map(|c| container_row(c, now, ps::Cut::No));
    let volumes = usage.volumes.iter().flatten().map(volume::row);
    let caches = usage.build_cache.iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
    Ok(format!(
        "{{\"Images\":[{}],\"Containers\":[{}],\"Volumes\":[{}],\"BuildCache\":[{}]}}\n",
        list(images.collect())?,
        list(containers.collect())?,
        list(volumes.collect())?,
        caches.join(",")
    ))
}

fn summary(usage: &DiskUsage) -> Vec<Row> {
    let containers = usage.containers.as_deref().unwrap_or_default();
    let images = usage.images.as_deref().unwrap_or_default();
    let volumes = usage.volumes.as_deref().unwrap_or_default();
    let caches = usage.build_cache.as_deref().unwrap_or_default();
    let used_images: i64 = images
        .iter()
        .filter(|image| image.containers > 0 && image.size >= 0 && image.shared_size >= 0)
        .map(|image| image.size - image.shared_size)
        .sum();
    let runs = |state: &str| matches!(state, "running" | "paused" | "restarting");
    let size_of = |running: bool| {
        containers.iter().filter(|c| runs(&c.state) == running).map(|c| c.size_rw).sum::<i64>()
    };
    let volume_size = |used: bool| {
        volumes
            .iter()
            .filter_map(|v| v.usage_data.as_ref())
            .filter(|u| u.size >= 0 && (u.ref_count > 0) == used)
            .map(|u| u.size)
            .sum::<i64>()
    };
    let number = |cache: &serde_json::Value, name: &str| {
        cache.get(name).and_then(serde_json::Value::as_i64).unwrap_or(0)
    };
    let flag = |cache: &serde_json::Value, name: &str| {
        cache.get(name).and_then(serde_json::Value::as_bool) == Some(true)
    };
    let own: Vec<&serde_json::Value> = caches.iter().filter(|c| !flag(c, "Shared")).collect();
    let cache_size: i64 = own.iter().map(|c| number(c, "Size")).sum();
    let cache_free: i64 = own.iter().filter(|c| !flag(c, "InUse")).map(|c| number(c, "Size")).sum();
    let all_containers = size_of(true) + size_of(false);
    let all_volumes = volume_size(true) + volume_size(false);
    vec![
        line(
            "Images",
            images.len(),
            images.iter().filter(|i| i.containers > 0).count(),
            usage.layers_size,
            usage.layers_size - used_images,
            Share::Percent,
        ),
        line(
            "Containers",
            containers.len(),
            containers.iter().filter(|c| runs(&c.state)).count(),
            all_containers,
            size_of(false),
            Share::Percent,
        ),
        line(
            "Local Volumes",
            volumes.len(),
            volumes
                .iter()
                .filter(|v| v.usage_data.as_ref().is_some_and(|u| u.ref_count > 0))
                .count(),
            all_volumes,
            volume_size(false),
            Share::Percent,
        ),
        line(
            "Build Cache",
            caches.len(),
            caches.iter().filter(|c| flag(c, "InUse")).count(),
            cache_size,
            cache_free,
            Share::None,
        ),
    ]
}

/// Whether the part that can be freed is also shown in per cent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Percent,
    None,
}

fn line(kind: &str, total: usize, active: usize, size: i64, free: i64, share: Share) -> Row {
    let reclaimable = if size > 0 && share == Share::Percent {
        format!("{} ({}%)", units::size4(free), i128::from(free) * 100 / i128::from(size))
    } else {
        units::size4(free)
    };
    let columns = vec![
        ("Active", Value::str(active.to_string())),
        ("Reclaimable", Value::str(reclaimable)),
        ("Size", Value::str(units::size4(size))),
        ("TotalCount", Value::str(total.to_string())),
        ("Type", Value::str(kind)),
    ];
    Row { columns, labels: Labels::None }
}

fn verbose(usage: &DiskUsage) -> String {
    let now = units::now();
    let cells = |row: &Row, names: &[&str]| {
        let cell = |name: &&str| {
            row.columns
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.to_string())
                .unwrap_or_default()
        };
        names.iter().map(cell).collect::<Vec<_>>().join("\t")
    };
    let section = |title: &str, head: &str, rows: Vec<String>| {
        let body = rows.iter().fold(format!("{head}\n"), |text, row| text + row + "\n");
        format!("{title}\n\n{}\n", table::align(&body))
    };
    let images = image_rows(usage, false, now);
    let image_columns = [
        "Repository",
        "Tag",
        "ID",
        "CreatedSince",
        "Size",
        "SharedSize",
        "UniqueSize",
        "Containers",
    ];
    let container_columns =
        ["ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"];
    let containers = usage.containers.iter().flatten().map(|c| container_row(c, now, ps::Cut::Yes));
    let volumes = usage.volumes.iter().flatten().map(volume::row);
    let text = section(
        "Images space usage:",
        "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS",
        images.map(|row| cells(&row, &image_columns)).collect(),
    ) + &section(
        "Containers space usage:",
        "CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES",
        containers.map(|row| cells(&row, &container_columns)).collect(),
    ) + &section(
        "Local Volumes space usage:",
        "VOLUME NAME\tLINKS\tSIZE",
        volumes.map(|row| cells(&row, &["Name", "Links", "Size"])).collect(),
    ) + &section(
        &format!("Build cache usage: {}", units::size4(cache_size(usage))),
        "CACHE ID\tCACHE TYPE\tSIZE\tCREATED\tLAST USED\tUSAGE\tSHARED",
        usage.build_cache.iter().flatten().map(|cache| cache_line(cache, now)).collect(),
    );
    // No empty line at the end.
    text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
}

/// One row per image, under its first name: its size is told once.
fn image_rows(usage: &DiskUsage, no_trunc: bool, now: i64) -> impl Iterator<Item = Row> {
    let first = move |image| images::rows(image, false, no_trunc, now).into_iter().next();
    usage.images.iter().flatten().filter_map(first)
}

fn cache_size(usage: &DiskUsage) -> i64 {
    let own = usage.build_cache.iter().flatten().filter(|cache| cache["Shared"] != true);
    own.filter_map(|cache| cache["Size"].as_i64()).sum()
}

/// A record of a builder's cache; another daemon may have one.
fn cache_line(cache: &serde_json::Value, now: i64) -> String {
    let text = |name: &str| cache[name].as_str().unwrap_or_default();
    let ago = |name: &str| {
        let moment = text(name).parse::<Timestamp>();
        moment.map(|moment| units::ago(moment.as_second(), now)).unwrap_or_default()
    };
    [
        units::short_id(text("ID")).to_owned(),
        text("Type").to_owned(),
        units::size4(cache["Size"].as_i64().unwrap_or(0)),
        ago("CreatedAt"),
        ago("LastUsedAt"),
        cache["UsageCount"].as_i64().unwrap_or(0).to_string(),
        (cache["Shared"] == true).to_string(),
    ]
    .join("\t")
}

/// `pouch system prune`.
pub(crate) async fn prune(session: &Session, flags: SystemPruneFlags) -> Outcome {
    let filters = filters(&flags.prune.filter)?;
    let mut warning = String::from(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n",
    );
    if flags.volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(if flags.all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    });
    warning.push_str("  - unused build cache\n");
    if !flags.prune.force && !confirmed(&warning)? {
        return Ok(0);
    }
    let client = &session.client;
    let mut reclaimed = 0u64;
    let containers = client.prune_containers(&filters).await?;
    reclaimed = reclaimed.saturating_add(containers.space_reclaimed);
    listed("Deleted Containers:", containers.containers_deleted.unwrap_or_default())?;
    let networks = client.prune_networks(&filters).await?;
    listed("Deleted Networks:", networks.networks_deleted.unwrap_or_default())?;
    if flags.volumes {
        let volumes = client.prune_volumes(&filters).await?;
        reclaimed = reclaimed.saturating_add(volumes.space_reclaimed);
        listed("Deleted Volumes:", volumes.volumes_deleted.unwrap_or_default())?;
    }
    let mut of_images = filters.clone();
    of_images.add("dangling", if flags.all { "false" } else { "true" });
    let images = client.prune_images(&of_images).await?;
    reclaimed = reclaimed.saturating_add(images.space_reclaimed);
    let steps = images.images_deleted.unwrap_or_default().into_iter().map(|step| {
        if step.deleted.is_empty() {
            format!("untagged: {}", step.untagged)
        } else {
            format!("deleted: {}", step.deleted)
        }
    });
    listed("Deleted Images:", steps.collect())?;
    match client.prune_build_cache(&filters).await {
        Ok(cache) => {
            reclaimed = reclaimed.saturating_add(cache.space_reclaimed);
            listed("Deleted build cache objects:", cache.caches_deleted.unwrap_or_default())?;
        }
        // A daemon without a builder has no cache to prune.
        Err(ClientError::Api { status, .. }) if status == 404 || status == 501 => {}
        Err(error) => return Err(error.into()),
    }
    let bytes = i64::try_from(reclaimed).unwrap_or(i64::MAX);
    output::line(&format!("Total reclaimed space: {}", units::size4(bytes)))?;
    Ok(0)
}

fn listed(title: &str, names: Vec<String>) -> Result<(), Failure> {
    if names.is_empty() {
        Ok(())
    } else {
        output::line(&format!("{title}\n{}\n", names.join("\n")))
    }
}

/// `pouch system dial-stdio`: what the other end of an ssh connection runs.
pub(crate) async fn dial_stdio(session: &Session) -> Outcome {
    session.client.relay(tokio::io::stdin(), tokio::io::stdout()).await?;
    Ok(0)
}
