//! What an image contributes to a container: Docker's rules of precedence.

use std::collections::{BTreeMap, BTreeSet};

use pouch_types::Signal;
use pouch_types::spec::{ContainerSpec, Healthcheck, Port};

/// Search path of a container whose image sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The configuration of an image, validated: labels without reserved names, paths clean.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImageConfigView {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// Default program.
    pub entrypoint: Vec<String>,
    /// Empty is `/`.
    pub working_dir: String,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Destinations of anonymous volumes.
    pub volumes: BTreeSet<String>,
    /// Ports that it says it serves.
    pub exposed_ports: BTreeSet<Port>,
    /// Signal of an orderly stop.
    pub stop_signal: Option<Signal>,
    /// Probe.
    pub healthcheck: Option<Healthcheck>,
    /// For `CMD-SHELL` probes; empty is `/bin/sh -c`.
    pub shell: Vec<String>,
}

/// Fills in from the image what the request left open.
///
/// - An entrypoint in the request sets the image's command aside; `[""]` does so and is no
///   entrypoint itself, while `[]` only sets the image's entrypoint aside.
/// - A variable of the request replaces the image's of the same name; a bare `NAME` removes it and
///   stays, so that the removal also reaches the engine's own variables.
/// - Labels, ports and volumes are united, the request's labels win.
/// - A probe is completed field by field; `["NONE"]` switches the image's off.
///
/// To be applied once: what the request left open is not told from what it emptied afterwards.
pub fn merge_image(spec: &mut ContainerSpec, image: &ImageConfigView) {
    let process = &mut spec.process;
    if process.user.is_empty() {
        process.user.clone_from(&image.user);
    }
    if process.working_dir.is_empty() {
        process.working_dir.clone_from(&image.working_dir);
    }
    for variable in &image.env {
        let name = name_of(variable);
        if !process.env.iter().any(|own| name_of(own) == name) {
            process.env.push(variable.clone());
        }
    }

    let command_given = process.cmd.as_ref().is_some_and(|cmd| !cmd.is_empty());
    match process.entrypoint.as_deref() {
        None | Some([]) => {
            if !command_given {
                process.cmd = Some(image.cmd.clone());
            }
            process.entrypoint.get_or_insert_with(|| image.entrypoint.clone());
        }
        // `--entrypoint ""` arrives as one empty string.
        Some([empty]) if empty.is_empty() => process.entrypoint = Some(Vec::new()),
        Some(_) => {}
    }
    process.cmd.get_or_insert_with(Vec::new);

    for (name, value) in &image.labels {
        spec.labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    spec.volumes.extend(image.volumes.iter().cloned());
    spec.exposed_ports.extend(&image.exposed_ports);
    if spec.stop_signal.is_none() {
        spec.stop_signal = image.stop_signal;
    }
    merge_healthcheck(&mut spec.healthcheck, image);
}

fn merge_healthcheck(own: &mut Option<Healthcheck>, image: &ImageConfigView) {
    let Some(inherited) = &image.healthcheck else { return };
    let Some(own) = own else {
        *own = Some(inherited.clone());
        return;
    };
    if own.test.is_empty() {
        own.test.clone_from(&inherited.test);
    }
    for (value, from) in [
        (&mut own.interval_ns, inherited.interval_ns),
        (&mut own.timeout_ns, inherited.timeout_ns),
        (&mut own.start_period_ns, inherited.start_period_ns),
        (&mut own.start_interval_ns, inherited.start_interval_ns),
    ] {
        if *value == 0 {
            *value = from;
        }
    }
    if own.retries == 0 {
        own.retries = inherited.retries;
    }
}

/// The name of `NAME=value`.
pub(crate) fn name_of(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use pouch_types::spec::{ProcessSpec, Protocol};

    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    fn image() -> ImageConfigView {
        ImageConfigView {
            env: words(&["PATH=/bin", "A=image", "B=image"]),
            cmd: words(&["serve"]),
            entrypoint: words(&["/entry"]),
            working_dir: "/srv".into(),
            user: "app".into(),
            labels: BTreeMap::from([("a".into(), "image".into()), ("b".into(), "image".into())]),
            volumes: BTreeSet::from(["/data".into()]),
            exposed_ports: BTreeSet::from([Port { number: 80, protocol: Protocol::Tcp }]),
            stop_signal: None,
            healthcheck: Some(Healthcheck {
                test: words(&["CMD", "true"]),
                interval_ns: 5,
                retries: 4,
                ..Healthcheck::default()
            }),
            shell: vec![],
        }
    }

    fn merged(entrypoint: Option<&[&str]>, cmd: Option<&[&str]>) -> (Vec<String>, Vec<String>) {
        let process = ProcessSpec {
            entrypoint: entrypoint.map(words),
            cmd: cmd.map(words),
            ..ProcessSpec::default()
        };
        let mut spec = ContainerSpec { process, ..ContainerSpec::default() };
        merge_image(&mut spec, &image());
        (spec.process.entrypoint.unwrap(), spec.process.cmd.unwrap())
    }

    #[test]
    fn program() {
        assert_eq!(merged(None, None), (words(&["/entry"]), words(&["serve"])));
        assert_eq!(merged(None, Some(&[])), (words(&["/entry"]), words(&["serve"])));
        assert_eq!(merged(None, Some(&["x"])), (words(&["/entry"]), words(&["x"])));
        assert_eq!(merged(Some(&["/e"]), None), (words(&["/e"]), vec![]));
        assert_eq!(merged(Some(&["/e"]), Some(&["x"])), (words(&["/e"]), words(&["x"])));
        assert_eq!(merged(Some(&[""]), Some(&["x"])), (vec![], words(&["x"])));
        assert_eq!(merged(Some(&[""]), None), (vec![], vec![]));
        assert_eq!(merged(Some(&[]), Some(&["x"])), (vec![], words(&["x"])));
        assert_eq!(merged(Some(&[]), None), (vec![], words(&["serve"])));
    }

    #[test]
    fn everything_else() {
        let mut spec = ContainerSpec {
            process: ProcessSpec { env: words(&["A=own", "B"]), ..ProcessSpec::default() },
            labels: BTreeMap::from([("a".into(), "own".into())]),
            volumes: BTreeSet::from(["/own".into()]),
            healthcheck: Some(Healthcheck { interval_ns: 9, ..Healthcheck::default() }),
            ..ContainerSpec::default()
        };
        merge_image(&mut spec, &image());
        assert_eq!(spec.process.env, words(&["A=own", "B", "PATH=/bin"]));
        assert_eq!(
            (spec.process.user.as_str(), spec.process.working_dir.as_str()),
            ("app", "/srv")
        );
        assert_eq!(spec.labels["a"], "own");
        assert_eq!(spec.labels["b"], "image");
        assert_eq!(spec.volumes.len(), 2);
        assert_eq!(spec.exposed_ports.len(), 1);
        let probe = spec.healthcheck.unwrap();
        assert_eq!((probe.interval_ns, probe.retries), (9, 4));
        assert_eq!(probe.test, words(&["CMD", "true"]));
    }

    #[test]
    fn a_probe_can_be_switched_off() {
        let none = Healthcheck { test: words(&["NONE"]), ..Healthcheck::default() };
        let mut spec = ContainerSpec { healthcheck: Some(none), ..ContainerSpec::default() };
        merge_image(&mut spec, &image());
        assert_eq!(spec.healthcheck.unwrap().test, words(&["NONE"]));
    }
}
