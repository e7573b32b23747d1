//! `network ls`.

use pouch_docker_types::network::Network;

use super::{Outcome, filters};
use crate::context::Session;
use crate::flags::plain::NetworkListFlags;
use crate::listing::{Format, Layout, join_labels, labels_of};
use crate::template::{Row, Value};
use crate::{output, units};

static LAYOUT: Layout = Layout {
    titles: &[
        ("CreatedAt", "CREATED AT"),
        ("Driver", "DRIVER"),
        ("ID", "NETWORK ID"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("Name", "NAME"),
        ("Scope", "SCOPE"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "{{.ID}}",
    raw: "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n",
};

/// `pouch network ls`.
pub(crate) async fn ls(session: &Session, flags: NetworkListFlags) -> Outcome {
    let list = &flags.list;
    let format = Format::new(
        &LAYOUT,
        list.format.as_deref(),
        Some(&session.config.networks_format),
        list.quiet,
    )?;
    let mut networks = session.client.networks(&filters(&list.filter)?).await?;
    networks.sort_by(|a, b| crate::natural::compare(&a.name, &b.name));
    output::print(&format.render(networks.iter().map(|n| row(n, flags.no_trunc)).collect())?)?;
    Ok(0)
}

/// Go's `Time.String` of a time as the API sent it: without zeros at the end of its fraction.
fn go_time(time: jiff::Timestamp) -> String {
    let text = time.strftime("%Y-%m-%d %H:%M:%S.%N").to_string();
    format!("{} +0000 UTC", text.trim_end_matches('0').trim_end_matches('.'))
}

fn row(network: &Network, no_trunc: bool) -> Row {
    let id = if no_trunc { &network.id } else { units::short_id(&network.id) };
    let created = network
        .created
        .parse::<jiff::Timestamp>()
        .map_or_else(|_| network.created.clone(), go_time);
    let word = |b: bool| Value::str(if b { "true" } else { "false" });
    let columns = vec![
        ("CreatedAt", Value::str(created)),
        ("Driver", Value::str(network.driver.as_str())),
        ("ID", Value::str(id)),
        ("IPv4", word(network.enable_ipv4.unwrap_or(true))),
        ("IPv6", word(network.enable_ipv6)),
        ("Internal", word(network.internal)),
        ("Labels", Value::str(join_labels(&network.labels))),
        ("Name", Value::str(network.name.as_str())),
        ("Scope", Value::str(network.scope.as_str())),
    ];
    Row { columns, labels: labels_of(&network.labels) }
}

#[cfg(test)]
mod tests {
    use super::go_time;

    #[test]
    fn times_end_without_zeros() {
        for (nanoseconds, shown) in [
            (495_714_780, "2026-11-21 15:41:40.49571478 +0000 UTC"),
            (5, "2026-11-21 15:41:40.000000005 +0000 UTC"),
            (0, "2026-11-21 15:41:40 +0000 UTC"),
        ] {
            assert_eq!(go_time(jiff::Timestamp::new(1_795_275_700, nanoseconds).unwrap()), shown);
        }
    }
}
