//! Limits. In the contract 0 and the empty string leave a value as it is.

use pouch_cri_grpc as cri;
use pouch_types::spec::Resources;
use tonic::Status;

use crate::error::invalid;

/// Bytes, shares and microseconds as the engine has them.
pub(crate) fn limits(asked: &cri::LinuxContainerResources) -> Result<Resources, Status> {
    let positive = |field: &'static str, value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(invalid(field, format!("{value} is below 0"))),
    };
    let text = |list: &str| (!list.is_empty()).then(|| list.to_owned());
    // -1 is no quota, and below that nothing is meant.
    let quota = Some(asked.cpu_quota).filter(|quota| *quota != 0);
    let adj = i32::try_from(asked.oom_score_adj).ok().filter(|n| (-1000..=1000).contains(n));
    let adj = adj.ok_or_else(|| invalid("oom_score_adj", "is not within -1000 and 1000"))?;
    let memory = match asked.memory_limit_in_bytes {
        // How kubelet takes a limit away.
        -1 => None,
        bytes => positive("memory_limit_in_bytes", bytes)?,
    };
    // A limit of memory alone is meant for memory and swap together: pods do not swap unless asked.
    let swap = Some(asked.memory_swap_limit_in_bytes).filter(|bytes| *bytes != 0);
    let alone = memory.and_then(|bytes| i64::try_from(bytes).ok());
    Ok(Resources {
        memory,
        memory_swap: swap.or(alone),
        oom_score_adj: Some(adj),
        cpu_shares: positive("cpu_shares", asked.cpu_shares)?,
        cpu_period: positive("cpu_period", asked.cpu_period)?,
        cpu_quota: quota,
        cpuset_cpus: text(&asked.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems),
        unified: asked.unified.clone().into_iter().collect(),
        hugepages: asked.hugepage_limits.iter().map(|h| (h.page_size.clone(), h.limit)).collect(),
        ..Resources::default()
    })
}

/// What holds now.
pub(crate) fn render(limits: &Resources) -> cri::LinuxContainerResources {
    let signed = |value: Option<u64>| value.and_then(|v| i64::try_from(v).ok()).unwrap_or(0);
    cri::LinuxContainerResources {
        cpu_period: signed(limits.cpu_period),
        cpu_quota: limits.cpu_quota.unwrap_or(0),
        cpu_shares: signed(limits.cpu_shares),
        memory_limit_in_bytes: signed(limits.memory),
        oom_score_adj: limits.oom_score_adj.unwrap_or(0).into(),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: limits
            .hugepages
            .iter()
            .map(|(size, limit)| cri::HugepageLimit { page_size: size.clone(), limit: *limit })
            .collect(),
        unified: limits.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: limits.memory_swap.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_everything_as_it_is() {
        let limits = limits(&cri::LinuxContainerResources::default()).unwrap();
        assert_eq!(limits, Resources { oom_score_adj: Some(0), ..Resources::default() });
    }

    #[test]
    fn limits_come_back_as_they_were_given() {
        let asked = cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 999,
            cpuset_cpus: "0-1".into(),
            memory_swap_limit_in_bytes: 64 << 20,
            ..Default::default()
        };
        assert_eq!(render(&limits(&asked).unwrap()), asked);
    }

    #[test]
    fn impossible_values_are_named() {
        let wrong = |r: cri::LinuxContainerResources| limits(&r).unwrap_err().message().to_owned();
        let memory =
            cri::LinuxContainerResources { memory_limit_in_bytes: -2, ..Default::default() };
        assert!(wrong(memory).contains("memory_limit_in_bytes"));
        let adj = cri::LinuxContainerResources { oom_score_adj: 1001, ..Default::default() };
        assert!(wrong(adj).contains("oom_score_adj"));
    }
}
