//! Looking at running containers without asking them: processes from /proc, use of resources from
//! the control groups. No program of the container is ever executed for it.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pouch_cgroup::Cgroup;
use pouch_types::ErrorKind;

use crate::api::{NetworkCounters, StatsSample, Top};
use crate::container::Container;
use crate::{Engine, EngineError};

/// Time for ps(1) on a host with many processes.
const PS_PATIENCE: Duration = Duration::from_secs(10);
/// Output of ps(1) that is read.
const PS_MAX: usize = 8 << 20;

impl Engine {
    /// Processes of a container, as ps(1) of the host prints them with `ps_args`.
    ///
    /// # Errors
    /// `Conflict` when it does not run; `Invalid` when ps refuses the arguments.
    pub async fn top(&self, key: &str, ps_args: &str) -> Result<Top, EngineError> {
        let container = self.find(key)?;
        let cgroup = self.cgroup(&container)?;
        let pids =
            cgroup.pids().map_err(|e| EngineError::wrap("list the container's processes", e))?;
        let args = if ps_args.trim().is_empty() { "-ef" } else { ps_args };
        let ps = tokio::process::Command::new("ps")
            .args(args.split_ascii_whitespace())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PS_PATIENCE, ps)
            .await
            .map_err(|_| EngineError::new(ErrorKind::DeadlineExceeded, "ps did not end in time"))?;
        let top = match output {
            Ok(output) if output.status.success() => parse_ps(&output.stdout, &pids),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                let said: String = said.trim().chars().take(500).collect();
                Err(EngineError::invalid(format!("error running ps {args}: {said}")))
            }
            // A host without ps still has /proc; only the default columns are ours to print.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && ps_args.trim().is_empty() => {
                Ok(from_proc(&pids))
            }
            Err(e) => Err(EngineError::io("run ps", e)),
        }?;
        let view = container.view();
        let attributes = crate::engine::view_attributes(&view);
        self.inner.announce_container("top", &view.id, attributes);
        Ok(top)
    }

    /// One measurement. A container that does not run has none: `read` is empty then.
    ///
    /// # Errors
    /// `NotFound`; what reading the control groups says.
    pub async fn stats(&self, key: &str) -> Result<StatsSample, EngineError> {
        let container = self.find(key)?;
        let host_memory = host_memory();
        let online_cpus =
            u32::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1);
        let view = container.view();
        let mut sample = StatsSample {
            read: None,
            cgroup: pouch_cgroup::Stats::default(),
            system_cpu_ns: 0,
            online_cpus,
            host_memory,
            networks: Vec::new(),
        };
        if !view.state.is_running() {
            return Ok(sample);
        }
        let cgroup = match self.cgroup(&container) {
            Ok(cgroup) => cgroup,
            // It ended between the two looks.
            Err(_) if !container.view().state.is_running() => return Ok(sample),
            Err(error) => return Err(error),
        };
        sample.cgroup = match cgroup.stats() {
            Ok(stats) => stats,
            Err(_) if !container.view().state.is_running() => return Ok(sample),
            Err(error) => return Err(EngineError::wrap("read the control groups", error)),
        };
        sample.system_cpu_ns = pouch_cgroup::stats::machine_cpu()
            .map_err(|e| EngineError::wrap("read the machine's CPU time", e))?;
        sample.networks = network_counters(view.state.pid);
        sample.read = Some(Timestamp::now());
        Ok(sample)
    }

    /// The control group of a running container.
    pub(crate) fn cgroup(&self, container: &Arc<Container>) -> Result<Cgroup, EngineError> {
        let view = container.view();
        if !view.state.is_running() {
            return Err(EngineError::conflict(format!("container {} is not running", view.id)));
        }
        Cgroup::of_pid(&self.inner.cgroups, view.state.pid)
            .map_err(|e| EngineError::wrap("find the container's control group", e))
    }
}

/// Keeps the rows of the container's processes. The command is the last column and may hold
/// blanks.
fn parse_ps(output: &[u8], pids: &[u32]) -> Result<Top, EngineError> {
    let text = String::from_utf8_lossy(&output[..output.len().min(PS_MAX)]);
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let Some(column) = titles.iter().position(|t| t == "PID") else {
        return Err(EngineError::invalid("Couldn't find PID field in ps output"));
    };
    let processes = lines.filter_map(|line| {
        let mut fields = Vec::with_capacity(titles.len());
        let mut rest = line.trim_start();
        while fields.len() + 1 < titles.len() {
            let (field, more) = rest.split_once(char::is_whitespace)?;
            fields.push(field.to_owned());
            rest = more.trim_start();
        }
        fields.push(rest.trim_end().to_owned());
        let pid: u32 = fields.get(column)?.parse().ok()?;
        pids.contains(&pid).then_some(fields)
    });
    let processes = processes.collect();
    Ok(Top { titles, processes })
}

/// The columns of `ps -ef` that can be had from /proc alone.
fn from_proc(pids: &[u32]) -> Top {
    let titles = ["UID", "PID", "PPID", "CMD"].map(str::to_owned).to_vec();
    let row = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_ascii_whitespace().next().map(str::to_owned)
        };
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = cmdline.split(|b| *b == 0).map(String::from_utf8_lossy);
        let command = words.collect::<Vec<_>>().join(" ").trim_end().to_owned();
        Some(vec![field("Uid:")?, pid.to_string(), field("PPid:")?, command])
    };
    Top { titles, processes: pids.iter().filter_map(row).collect() }
}

/// Counters of the interfaces in the network namespace of `pid`, loopback excepted.
pub(crate) fn network_counters(pid: u32) -> Vec<(String, NetworkCounters)> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev"));
    text.map_or_else(|_| Vec::new(), |text| parse_counters(&text))
}

/// The content of /proc/net/dev, loopback excepted.
pub(crate) fn parse_counters(text: &str) -> Vec<(String, NetworkCounters)> {
    text.lines().skip(2).filter_map(parse_interface).filter(|(name, _)| name != "lo").collect()
}

/// One line of /proc/net/dev: eight counters received, eight sent.
fn parse_interface(line: &str) -> Option<(String, NetworkCounters)> {
    let (name, rest) = line.split_once(':')?;
    let n: Vec<u64> =
        rest.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [rx_bytes, rx_packets, rx_errors, rx_dropped, ..] = n[..] else { return None };
    let [tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = *n.get(8..)? else { return None };
    let counters = NetworkCounters {
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    };
    Some((name.trim().to_owned(), counters))
}

/// Bytes of the host's memory.
pub(crate) fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_rows_are_filtered_and_the_command_kept_whole() {
        let text = b"UID   PID  PPID  C STIME TTY  TIME CMD\n\
            root    1     0  0 10:00 ?  00:00:01 /sbin/init splash\n\
            root   42     1  0 10:00 ?  00:00:00 sh -c  sleep 1\n";
        let top = parse_ps(text, &[42]).unwrap();
        assert_eq!(top.titles.len(), 8);
        assert_eq!(top.processes.len(), 1);
        assert_eq!(top.processes[0][7], "sh -c  sleep 1");
        assert!(parse_ps(b"COMMAND\nx\n", &[1]).is_err());
    }

    #[test]
    fn interfaces_are_parsed() {
        let line = "  eth0: 10 2 0 1 0 0 0 0 30 4 5 6 0 0 0 0";
        let (name, counters) = parse_interface(line).unwrap();
        assert_eq!((name.as_str(), counters.rx_bytes, counters.tx_dropped), ("eth0", 10, 6));
    }
}
