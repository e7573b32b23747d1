//! Log drivers and their options.

use pouch_docker_types::container::LogConfig;
use pouch_types::spec::{LogDriver, LogSpec};

use super::value::{bad, size};
use crate::http::{ApiError, ApiResult};

/// Options that both writing drivers know, as dockerd's do.
const OPTIONS: [&str; 10] = [
    "max-size",
    "max-file",
    "compress",
    "labels",
    "labels-regex",
    "env",
    "env-regex",
    "tag",
    "mode",
    "max-buffer-size",
];

/// Reads a log configuration; without a driver it is the daemon's.
pub(super) fn read(config: LogConfig, default: &LogSpec) -> ApiResult<LogSpec> {
    let driver = match config.r#type.as_str() {
        "" => default.driver,
        "json-file" => LogDriver::JsonFile,
        "local" => LogDriver::Local,
        "none" => LogDriver::None,
        other => {
            return Err(ApiError::invalid(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    for (key, value) in &config.config {
        check(driver, key, value)?;
    }
    let mut options = config.config;
    if config.r#type.is_empty() || driver == default.driver {
        for (key, value) in &default.options {
            options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Ok(LogSpec { driver, options })
}

fn check(driver: LogDriver, key: &str, value: &str) -> ApiResult<()> {
    const FIELD: &str = "LogConfig";
    // dockerd takes any option with `none`, which keeps nothing.
    if driver == LogDriver::None {
        return Ok(());
    }
    if !OPTIONS.contains(&key) {
        let name = driver.as_str();
        return Err(ApiError::invalid(format!("unknown log opt '{key}' for {name} log driver")));
    }
    let good = match key {
        "max-size" => value == "-1" || size(value).is_some_and(|bytes| bytes > 0),
        "max-buffer-size" => size(value).is_some(),
        "max-file" => value.parse::<u32>().is_ok_and(|count| count > 0),
        "compress" => matches!(value, "true" | "false" | "1" | "0" | "t" | "f" | "True" | "False"),
        "mode" => matches!(value, "blocking" | "non-blocking"),
        _ => true,
    };
    if good { Ok(()) } else { Err(bad(FIELD, format_args!("{key}={value}"))) }
}

/// The configuration as inspect shows it.
pub(super) fn write(log: &LogSpec) -> LogConfig {
    LogConfig { r#type: log.driver.as_str().to_owned(), config: log.options.clone() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn config(driver: &str, options: &[(&str, &str)]) -> LogConfig {
        let config =
            options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        LogConfig { r#type: driver.to_owned(), config }
    }

    #[test]
    fn the_daemons_options_fill_in() {
        let options = BTreeMap::from([("max-size".to_owned(), "10m".to_owned())]);
        let default = LogSpec { driver: LogDriver::Local, options };
        let log = read(config("", &[("max-file", "2")]), &default).unwrap();
        assert_eq!((log.driver, log.options.len()), (LogDriver::Local, 2));
        let log = read(config("json-file", &[]), &default).unwrap();
        assert!(log.options.is_empty());
    }

    #[test]
    fn refuses() {
        let default = LogSpec::default();
        for (driver, key, value) in [
            ("syslog", "max-size", "1m"),
            ("json-file", "nope", "1"),
            ("json-file", "max-size", "x"),
            ("json-file", "max-size", "0"),
            ("local", "max-file", "0"),
            ("local", "compress", "maybe"),
            ("json-file", "mode", "sometimes"),
        ] {
            assert!(read(config(driver, &[(key, value)]), &default).is_err(), "{driver} {key}");
        }
        assert!(read(config("none", &[("nope", "1")]), &default).is_ok());
    }
}
