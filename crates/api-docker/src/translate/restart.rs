//! Restart policies.

use pouch_docker_types::container::RestartPolicy as Wire;
use pouch_types::spec::RestartPolicy;

use crate::http::{ApiError, ApiResult};

/// Reads a policy; an empty name is none.
pub(crate) fn read(wire: &Wire) -> ApiResult<RestartPolicy> {
    let count = wire.maximum_retry_count;
    let refuse = |why: &str| Err(ApiError::invalid(format!("invalid restart policy: {why}")));
    let policy = match wire.name.as_str() {
        "" => return Ok(RestartPolicy::No),
        "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => match u32::try_from(count) {
            Ok(max_retries) => return Ok(RestartPolicy::OnFailure { max_retries }),
            Err(_) => return refuse("maximum retry count cannot be negative"),
        },
        other => {
            return refuse(&format!(
                "unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'"
            ));
        }
    };
    if count != 0 {
        return refuse("maximum retry count can only be used with 'on-failure'");
    }
    Ok(policy)
}

/// The policy as inspect shows it.
pub(crate) fn write(policy: RestartPolicy) -> Wire {
    let (name, count) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { max_retries } => ("on-failure", max_retries),
    };
    Wire { name: name.to_owned(), maximum_retry_count: i64::from(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for policy in [
            RestartPolicy::No,
            RestartPolicy::Always,
            RestartPolicy::UnlessStopped,
            RestartPolicy::OnFailure { max_retries: 3 },
        ] {
            assert_eq!(read(&write(policy)), Ok(policy));
        }
        for (name, count) in [("always", 1), ("no", -1), ("on-failure", -1), ("sometimes", 0)] {
            let wire = Wire { name: name.to_owned(), maximum_retry_count: count };
            assert!(read(&wire).unwrap_err().message().starts_with("invalid restart policy: "));
        }
    }
}
