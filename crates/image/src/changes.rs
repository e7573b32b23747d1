//! `--change` of import and commit: Dockerfile instructions that change a configuration.

use std::collections::BTreeMap;

use pouch_types::{Classified, ErrorKind, Signal};

use crate::config::{ContainerConfig, HealthConfig};

/// The longest instruction that is looked at, bytes.
const INSTRUCTION: usize = 64 << 10;

/// An instruction that cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("invalid change {instruction:?}: {why}")]
pub struct InvalidChange {
    instruction: String,
    why: String,
}

impl Classified for InvalidChange {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// Instructions, checked but not applied.
#[derive(Debug, Clone, Default)]
pub struct Changes(Vec<Change>);

#[derive(Debug, Clone)]
enum Change {
    Cmd(Vec<String>),
    Entrypoint(Vec<String>),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Label(Vec<(String, String)>),
    User(String),
    Volume(Vec<String>),
    WorkingDir(String),
    StopSignal(String),
    Health(HealthConfig),
    OnBuild(String),
}

impl Changes {
    /// Parses one instruction per text.
    ///
    /// # Errors
    /// [`InvalidChange`] for the first that is not understood.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidChange> {
        let changes = texts.into_iter().map(|text| {
            parse(text)
                .map_err(|why| InvalidChange { instruction: text.chars().take(120).collect(), why })
        });
        Ok(Self(changes.collect::<Result<_, _>>()?))
    }

    /// Applies all, in order.
    pub fn apply(&self, config: &mut ContainerConfig) {
        for change in &self.0 {
            match change.clone() {
                Change::Cmd(words) => config.cmd = Some(words),
                Change::Entrypoint(words) => {
                    config.entrypoint = Some(words);
                    // As a build does: the old command was meant for the old entrypoint.
                    if !self.0.iter().any(|other| matches!(other, Change::Cmd(_))) {
                        config.cmd = None;
                    }
                }
                Change::Env(pairs) => {
                    for (name, value) in pairs {
                        let prefix = format!("{name}=");
                        config.env.retain(|old| !old.starts_with(&prefix));
                        config.env.push(prefix + &value);
                    }
                }
                Change::Expose(ports) => config.exposed_ports.extend(ports),
                Change::Label(pairs) => config.labels.extend(pairs),
                Change::User(user) => config.user = user,
                Change::Volume(paths) => config.volumes.extend(paths),
                Change::WorkingDir(path) => {
                    config.working_dir = if path.starts_with('/') {
                        path
                    } else {
                        format!("{}/{path}", config.working_dir.trim_end_matches('/'))
                    };
                }
                Change::StopSignal(signal) => config.stop_signal = Some(signal),
                Change::Health(health) => config.healthcheck = Some(health),
                Change::OnBuild(instruction) => config.on_build.push(instruction),
            }
        }
    }
}

fn parse(text: &str) -> Result<Change, String> {
    let text = text.trim();
    if text.len() > INSTRUCTION || text.contains('\0') {
        return Err("it is too long or has a NUL byte".to_owned());
    }
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err("it has no argument".to_owned());
    }
    Ok(match name.to_ascii_uppercase().as_str() {
        "CMD" => Change::Cmd(command(rest)),
        "ENTRYPOINT" => Change::Entrypoint(command(rest)),
        "ENV" => Change::Env(pairs(rest)?),
        "LABEL" => Change::Label(pairs(rest)?),
        "EXPOSE" => {
            let ports = words(rest)?;
            Change::Expose(ports.iter().map(|p| port(p)).collect::<Result<Vec<_>, _>>()?.concat())
        }
        "USER" => Change::User(single(rest)?),
        "VOLUME" => {
            let paths = exec_form(rest).map_or_else(|| words(rest), Ok)?;
            if paths.iter().any(|path| !path.starts_with('/')) {
                return Err("a volume is an absolute path".to_owned());
            }
            Change::Volume(paths)
        }
        "WORKDIR" => Change::WorkingDir(single(rest)?),
        "STOPSIGNAL" => {
            let signal = single(rest)?;
            signal.parse::<Signal>().map_err(|e| e.to_string())?;
            Change::StopSignal(signal)
        }
        "HEALTHCHECK" => Change::Health(health(rest)?),
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            if matches!(trigger.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(format!("{trigger} is not allowed as a trigger"));
            }
            Change::OnBuild(rest.to_owned())
        }
        other => return Err(format!("{other} is not a valid change command")),
    })
}

/// `["a", "b"]`.
fn exec_form(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// The exec form as it is, the shell form through a shell.
fn command(text: &str) -> Vec<String> {
    exec_form(text)
        .unwrap_or_else(|| ["/bin/sh", "-c", text].into_iter().map(str::to_owned).collect())
}

fn single(text: &str) -> Result<String, String> {
    match words(text)?.as_slice() {
        [one] if !one.is_empty() => Ok(one.clone()),
        _ => Err("it takes one argument".to_owned()),
    }
}

/// Words of a line with quotes and backslashes, as a Dockerfile has them.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                let next = chars.next().ok_or("it ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// `a=b c=d`, or the old `a b c` for one name whose value is the rest of the line.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) =
            text.split_once(char::is_whitespace).ok_or("it must have two arguments")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words(text)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("{word:?} is not name=value")),
        })
        .collect()
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn port(text: &str) -> Result<Vec<String>, String> {
    let invalid = || format!("{text:?} is no port");
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(invalid());
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().ok().filter(|&n| n > 0).ok_or_else(invalid);
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(invalid());
    }
    Ok((first..=last).map(|n| format!("{n}/{protocol}")).collect())
}

fn health(text: &str) -> Result<HealthConfig, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() });
    }
    let mut health = HealthConfig::default();
    let mut options = BTreeMap::new();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let end = option.find(char::is_whitespace).unwrap_or(option.len());
        let (name, value) = option[..end].split_once('=').ok_or("an option needs a value")?;
        options.insert(name, value);
        rest = option[end..].trim_start();
    }
    for (name, value) in options {
        match name {
            "interval" => health.interval = duration(value)?,
            "timeout" => health.timeout = duration(value)?,
            "start-period" => health.start_period = duration(value)?,
            "start-interval" => health.start_interval = duration(value)?,
            "retries" => {
                health.retries = value
                    .parse()
                    .ok()
                    .filter(|&n: &i64| n >= 0)
                    .ok_or("retries is a number, 0 or more")?;
            }
            other => return Err(format!("unknown option --{other}")),
        }
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    if !kind.eq_ignore_ascii_case("cmd") || command.is_empty() {
        return Err("it is neither NONE nor CMD with a command".to_owned());
    }
    health.test = match exec_form(command) {
        Some(words) => [vec!["CMD".to_owned()], words].concat(),
        None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
    };
    Ok(health)
}

/// Go's durations, `1m30s`, in nanoseconds; at least one millisecond.
fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("{text:?} is no duration");
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        let unit_end =
            rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let scale = match &rest[digits..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(invalid()),
        };
        total += number * scale;
        rest = &rest[unit_end..];
    }
    if !(1e6..9e18).contains(&total) {
        return Err(format!("{text:?} is out of range: want at least 1ms"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range was just checked")]
    let nanoseconds = total as i64;
    Ok(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(texts: &[&str]) -> ContainerConfig {
        let mut config = ContainerConfig {
            env: vec!["PATH=/bin".into(), "A=1".into()],
            working_dir: "/srv".into(),
            cmd: Some(vec!["old".into()]),
            ..ContainerConfig::default()
        };
        Changes::parse(texts.iter().copied()).unwrap().apply(&mut config);
        config
    }

    #[test]
    fn applies_each_instruction() {
        let config = apply(&[
            r#"CMD ["a", "b c"]"#,
            "entrypoint echo $HOME",
            r#"ENV A=2 B="x y" C=\ z"#,
            "ENV D some  text",
            "EXPOSE 80 8000-8001/udp",
            "LABEL k=v",
            "USER nobody:nogroup",
            r#"VOLUME ["/a", "/b"]"#,
            "VOLUME /c /d",
            "WORKDIR sub",
            "STOPSIGNAL SIGUSR1",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f localhost",
        ]);
        assert_eq!(config.cmd.unwrap(), ["a", "b c"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "echo $HOME"]);
        assert_eq!(config.env, ["PATH=/bin", "A=2", "B=x y", "C= z", "D=some  text"]);
        let ports: Vec<_> = config.exposed_ports.iter().map(String::as_str).collect();
        assert_eq!(ports, ["80/tcp", "8000/udp", "8001/udp"]);
        assert_eq!(config.labels["k"], "v");
        assert_eq!(config.user, "nobody:nogroup");
        assert_eq!(config.volumes.len(), 4);
        assert_eq!(config.working_dir, "/srv/sub");
        assert_eq!(config.stop_signal.as_deref(), Some("SIGUSR1"));
        assert_eq!(config.on_build, ["RUN x"]);
        let health = config.healthcheck.unwrap();
        assert_eq!(health.test, ["CMD-SHELL", "curl -f localhost"]);
        assert_eq!((health.interval, health.retries), (90_000_000_000, 2));
        assert_eq!(apply(&["ENTRYPOINT [\"x\"]"]).cmd, None, "the old command goes");
        assert_eq!(apply(&["HEALTHCHECK NONE"]).healthcheck.unwrap().test, ["NONE"]);
    }

    #[test]
    fn refuses() {
        for bad in [
            "",
            "CMD",
            "RUN x",
            "FROM x",
            "EXPOSE 0",
            "EXPOSE 70000",
            "EXPOSE 80/icmp",
            "EXPOSE 9-8",
            "ENV A",
            "ENV A=1 =2",
            "LABEL \"a=b",
            "USER a b",
            "VOLUME rel",
            "STOPSIGNAL NOPE",
            "ONBUILD FROM x",
            "HEALTHCHECK --interval=1 CMD x",
            "HEALTHCHECK --interval=0s CMD x",
            "HEALTHCHECK --what=1s CMD x",
            "HEALTHCHECK x",
        ] {
            assert!(Changes::parse([bad]).is_err(), "{bad}");
        }
    }
}
