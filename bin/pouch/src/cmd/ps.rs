//! `ps`.

use pouch_client::ListContainers;
use pouch_docker_types::container::{ContainerSummary, Port};

use super::{Outcome, filters};
use crate::context::Session;
use crate::flags::plain::PsFlags;
use crate::listing::{Format, Layout, join_labels, labels_of};
use crate::template::{Row, Value};
use crate::{output, units};

const TITLES: &[(&str, &str)] = &[
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
    ("Ports", "PORTS"),
    ("RunningFor", "CREATED"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];

const RAW: &str = "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\n\
                   created_at: {{.CreatedAt}}\nstate: {{- pad .State 1 0}}\nstatus: {{- pad .Status 1 0}}\n\
                   names: {{.Names}}\nlabels: {{- pad .Labels 1 0}}\nports: {{- pad .Ports 1 0}}\n";

static LAYOUT: Layout = Layout {
    titles: TITLES,
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    quiet: "{{.ID}}",
    raw: RAW,
};

static LAYOUT_SIZE: Layout = Layout {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
    ..LAYOUT
};

/// `pouch ps`.
pub(crate) async fn ps(session: &Session, flags: PsFlags) -> Outcome {
    let layout = if flags.size { &LAYOUT_SIZE } else { &LAYOUT };
    let format =
        Format::new(layout, flags.format.as_deref(), Some(&session.config.ps_format), flags.quiet)?;
    let list = ListContainers {
        all: flags.all,
        limit: if flags.latest { Some(1) } else { flags.last.filter(|n| *n >= 0) },
        size: flags.size || format.shows("Size"),
        filters: filters(&flags.filter)?,
    };
    let containers = session.client.containers(&list).await?;
    let now = units::now();
    let cut = if flags.no_trunc { Cut::No } else { Cut::Yes };
    output::print(&format.render(containers.iter().map(|c| row(c, now, cut)).collect())?)?;
    Ok(0)
}

/// Whether long cells are shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Yes,
    No,
}

pub(crate) fn row(container: &ContainerSummary, now: i64, cut: Cut) -> Row {
    let short = cut == Cut::Yes;
    let id = if short { units::short_id(&container.id) } else { &container.id };
    let text = |text: String| Value::str(text);
    let command =
        if short { units::ellipsis(&container.command, 20) } else { container.command.clone() };
    let local = container.mounts.iter().filter(|mount| mount.driver == "local").count();
    let networks: Vec<&str> =
        container.network_settings.networks.keys().map(String::as_str).collect();
    let columns = vec![
        ("Command", text(crate::template::quote(&command))),
        ("CreatedAt", text(units::local_time(container.created))),
        ("ID", Value::str(id)),
        ("Image", text(image(container, cut))),
        ("Labels", text(join_labels(&container.labels))),
        ("LocalVolumes", text(local.to_string())),
        ("Mounts", text(mounts(container, cut))),
        ("Names", text(names(&container.names, cut))),
        ("Networks", text(networks.join(","))),
        // Of the image's manifest, which daemons with a containerd image store add.
        ("Platform", Value::Null),
        ("Ports", text(ports(&container.ports))),
        ("RunningFor", text(units::ago(container.created, now))),
        ("Size", text(size(container))),
        ("State", Value::str(container.state.as_str())),
        ("Status", Value::str(container.status.as_str())),
    ];
    Row { columns, labels: labels_of(&container.labels) }
}

fn size(container: &ContainerSummary) -> String {
    let own = units::size(container.size_rw);
    if container.size_root_fs > 0 {
        format!("{own} (virtual {})", units::size(container.size_root_fs))
    } else {
        own
    }
}

fn image(container: &ContainerSummary, cut: Cut) -> String {
    if container.image.is_empty() {
        return "<no image>".to_owned();
    }
    if cut == Cut::No {
        return container.image.clone();
    }
    let short = units::short_id(&container.image_id);
    if !short.is_empty() && units::short_id(&container.image) == short {
        return short.to_owned();
    }
    // A digest beside a tag says nothing more to people.
    match container.image.split_once('@') {
        Some((name, _)) if name.rsplit('/').next().is_some_and(|last| last.contains(':')) => {
            name.to_owned()
        }
        _ => container.image.clone(),
    }
}

/// The names without their slash; names of links (`/other/alias`) only in the long form.
pub(crate) fn names(names: &[String], cut: Cut) -> String {
    let plain: Vec<&str> =
        names.iter().map(|name| name.strip_prefix('/').unwrap_or(name)).collect();
    match plain.iter().find(|name| !name.contains('/')) {
        Some(own) if cut == Cut::Yes => (*own).to_owned(),
        _ => plain.join(","),
    }
}

fn mounts(container: &ContainerSummary, cut: Cut) -> String {
    let words: Vec<String> = container
        .mounts
        .iter()
        .map(|mount| {
            let name = if mount.name.is_empty() { &mount.source } else { &mount.name };
            if cut == Cut::Yes { units::ellipsis(name, 15) } else { name.clone() }
        })
        .collect();
    words.join(",")
}

/// Published and exposed ports; runs of consecutive ones with the same address as a range.
fn ports(ports: &[Port]) -> String {
    struct Group {
        key: (String, String),
        first: u16,
        last: u16,
    }
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by(|a, b| {
        (a.private_port, &a.ip, a.public_port, &a.r#type).cmp(&(
            b.private_port,
            &b.ip,
            b.public_port,
            &b.r#type,
        ))
    });
    let mut done = Vec::new();
    let mut mapped = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    for port in sorted {
        if !port.ip.is_empty() && port.public_port != port.private_port {
            let host = join_host_port(&port.ip, &port.public_port.to_string());
            mapped.push(format!("{host}->{}/{}", port.private_port, port.r#type));
            continue;
        }
        let key = (port.ip.clone(), port.r#type.clone());
        match groups.iter_mut().find(|group| group.key == key) {
            None => groups.push(Group { key, first: port.private_port, last: port.private_port }),
            Some(group) if u32::from(port.private_port) == u32::from(group.last) + 1 => {
                group.last = port.private_port;
            }
            Some(group) => {
                done.push(form(&group.key, group.first, group.last));
                (group.first, group.last) = (port.private_port, port.private_port);
            }
        }
    }
    done.extend(groups.iter().map(|group| form(&group.key, group.first, group.last)));
    done.extend(mapped);
    done.join(", ")
}

fn form((ip, protocol): &(String, String), first: u16, last: u16) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    if ip.is_empty() {
        format!("{range}/{protocol}")
    } else {
        format!("{}->{range}/{protocol}", join_host_port(ip, &range))
    }
}

pub(crate) fn join_host_port(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, private: u16, public: u16, kind: &str) -> Port {
        Port {
            ip: ip.to_owned(),
            private_port: private,
            public_port: public,
            r#type: kind.to_owned(),
        }
    }

    #[test]
    fn ports_are_grouped() {
        assert_eq!(ports(&[]), "");
        assert_eq!(ports(&[port("", 443, 0, "tcp"), port("", 80, 0, "tcp")]), "80/tcp, 443/tcp");
        assert_eq!(
            ports(&[
                port("0.0.0.0", 8000, 8000, "tcp"),
                port("0.0.0.0", 8001, 8001, "tcp"),
                port("::", 8000, 8000, "tcp"),
                port("0.0.0.0", 53, 5353, "udp"),
            ]),
            "0.0.0.0:8000-8001->8000-8001/tcp, [::]:8000->8000/tcp, 0.0.0.0:5353->53/udp"
        );
    }

    #[test]
    fn own_names_come_before_links() {
        let all = vec!["/web/db".to_owned(), "/db".to_owned()];
        assert_eq!(names(&all, Cut::Yes), "db");
        assert_eq!(names(&all, Cut::No), "web/db,db");
    }
}
