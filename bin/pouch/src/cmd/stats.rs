//! `stats`.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pouch_client::{ListContainers, Sampling};
use pouch_docker_types::container::Stats;

use super::Outcome;
use crate::context::Session;
use crate::failure::Failure;
use crate::flags::plain::StatsFlags;
use crate::listing::{Format, Layout};
use crate::template::{Labels, Row, Value};
use crate::{output, terminal, units};

static LAYOUT: Layout = Layout {
    titles: &[
        ("BlockIO", "BLOCK I/O"),
        ("CPUPerc", "CPU %"),
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("MemPerc", "MEM %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("Name", "NAME"),
        ("NetIO", "NET I/O"),
        ("PIDs", "PIDS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    quiet: "{{.ID}}",
    raw: "",
};

/// Between two screens; a sample itself takes the daemon a second.
const PAUSE: Duration = Duration::from_millis(200);
/// Cursor home, and after the text: clear what is left of an older, longer screen.
const HOME: &str = "\x1b[2J\x1b[H";

/// `pouch stats`.
pub(crate) async fn stats(session: &Session, flags: StatsFlags) -> Outcome {
    let format =
        Format::new(&LAYOUT, flags.format.as_deref(), Some(&session.config.stats_format), false)?;
    // The first screen names what does not exist; later ones only leave out what has gone.
    for name in &flags.containers {
        session.client.inspect_container(name).await?;
    }
    let clear = format.is_table() && terminal::stdout_is_terminal() && !flags.no_stream;
    loop {
        let rows = sample(session, &flags).await?;
        let text = format.render(rows)?;
        output::print(&if clear { format!("{HOME}{text}") } else { text })?;
        if flags.no_stream {
            return Ok(0);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn sample(session: &Session, flags: &StatsFlags) -> Result<Vec<Row>, Failure> {
    let names = if flags.containers.is_empty() {
        let list = ListContainers { all: flags.all, ..ListContainers::default() };
        let all = session.client.containers(&list).await?.into_iter();
        all.map(|c| if flags.no_trunc { c.id } else { units::short_id(&c.id).to_owned() }).collect()
    } else {
        flags.containers.clone()
    };
    let mut pending: FuturesUnordered<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| async move {
            let mut samples = session.client.stats(name, Sampling::Once).await?;
            Ok::<_, pouch_client::ClientError>((at, samples.next().await?))
        })
        .collect();
    let mut rows = Vec::new();
    while let Some(result) = pending.next().await {
        match result {
            Ok((at, Some(stats))) => rows.push((at, row(&names[at], &stats, flags.no_trunc))),
            Ok((_, None)) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    rows.sort_by_key(|(at, _)| *at);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn row(name: &str, stats: &Stats, no_trunc: bool) -> Row {
    let id = if no_trunc { &stats.id } else { units::short_id(&stats.id) };
    let used = memory_used(stats);
    let (rx, tx) = stats.networks.values().fold((0u64, 0u64), |(rx, tx), net| {
        (rx.saturating_add(net.rx_bytes), tx.saturating_add(net.tx_bytes))
    });
    let (read, written) = block_io(stats);
    let decimal = |bytes: u64| units::size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let columns = vec![
        ("BlockIO", Value::str(format!("{} / {}", decimal(read), decimal(written)))),
        ("CPUPerc", Value::str(format!("{:.2}%", cpu_percent(stats)))),
        ("Container", Value::str(name)),
        ("ID", Value::str(id)),
        ("MemPerc", Value::str(format!("{:.2}%", percent(used, stats.memory_stats.limit)))),
        (
            "MemUsage",
            Value::str(format!(
                "{} / {}",
                units::binary_size(used),
                units::binary_size(stats.memory_stats.limit)
            )),
        ),
        ("Name", Value::str(stats.name.trim_start_matches('/'))),
        ("NetIO", Value::str(format!("{} / {}", decimal(rx), decimal(tx)))),
        ("PIDs", Value::str(stats.pids_stats.current.to_string())),
    ];
    Row { columns, labels: Labels::None }
}

/// Without the page cache that the kernel can take back: v1 and v2 name it differently.
fn memory_used(stats: &Stats) -> u64 {
    let memory = &stats.memory_stats;
    let inactive = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|name| memory.stats.get(*name))
        .copied()
        .filter(|inactive| *inactive < memory.usage)
        .unwrap_or(0);
    memory.usage - inactive
}

#[expect(clippy::cast_precision_loss, reason = "a ratio with two decimals is shown")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

/// Of one CPU: four busy CPUs are 400 %.
fn cpu_percent(stats: &Stats) -> f64 {
    let (now, before) = (&stats.cpu_stats, &stats.precpu_stats);
    let used = now.cpu_usage.total_usage.saturating_sub(before.cpu_usage.total_usage);
    let passed = now.system_cpu_usage.saturating_sub(before.system_cpu_usage);
    let cpus = if now.online_cpus > 0 {
        f64::from(now.online_cpus)
    } else {
        f64::from(u32::try_from(now.cpu_usage.percpu_usage.len()).unwrap_or(u32::MAX))
    };
    percent(used, passed) * cpus
}

fn block_io(stats: &Stats) -> (u64, u64) {
    let (mut read, mut written) = (0u64, 0u64);
    for entry in stats.blkio_stats.io_service_bytes_recursive.iter().flatten() {
        match entry.op.as_bytes().first() {
            Some(b'r' | b'R') => read = read.saturating_add(entry.value),
            Some(b'w' | b'W') => written = written.saturating_add(entry.value),
            _ => {}
        }
    }
    (read, written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_the_difference() {
        let mut stats = Stats::default();
        stats.cpu_stats.cpu_usage.total_usage = 300;
        stats.precpu_stats.cpu_usage.total_usage = 100;
        stats.cpu_stats.system_cpu_usage = 2000;
        stats.precpu_stats.system_cpu_usage = 1000;
        stats.cpu_stats.online_cpus = 4;
        assert!((cpu_percent(&stats) - 80.0).abs() < 1e-9);
        stats.memory_stats.usage = 1000;
        stats.memory_stats.stats.insert("inactive_file".to_owned(), 400);
        assert_eq!(memory_used(&stats), 600);
        stats.memory_stats.stats.insert("total_inactive_file".to_owned(), 5000);
        assert_eq!(memory_used(&stats), 1000);
        assert!(percent(1, 0).abs() < 1e-9);
    }
}
