//! Containers of pods.

use std::collections::BTreeMap;

use pouch_cri_grpc as cri;
use pouch_engine::{ContainerView, PodView, ProcessUser, Status as State};
use pouch_types::pod::{PidScope, PodMember, Scope};
use pouch_types::spec::{
    ContainerSpec, DeviceSpec, LogDriver, LogSpec, Namespaces, NetworkMode, NetworkSpec, PidMode,
    ProcessSpec,
};
use tonic::Status;

use super::security::{self, Machine};
use super::{clean_path, mount, nanoseconds, resources, signal};
use crate::error::{invalid, unsupported};

/// Of one kind in a request.
const MAX_ITEMS: usize = 4096;

/// Reasons that kubelet shows.
const COMPLETED: &str = "Completed";
const ERROR: &str = "Error";
const OOM_KILLED: &str = "OOMKilled";
const START_ERROR: &str = "StartError";
/// Exit code of what could not be started.
const NOT_STARTED: i32 = 128;

/// A container as asked for, in its pod.
pub(crate) fn spec(
    config: cri::ContainerConfig,
    pod: &PodView,
    machine: Machine,
) -> Result<ContainerSpec, Status> {
    let metadata = config.metadata.ok_or_else(|| invalid("config.metadata", "is missing"))?;
    if metadata.name.is_empty() {
        return Err(invalid("config.metadata.name", "is empty"));
    }
    let image = config.image.unwrap_or_default();
    if image.image.is_empty() {
        return Err(invalid("config.image.image", "is empty"));
    }
    if config.windows.is_some() {
        return Err(unsupported("config.windows", "this is a node with Linux"));
    }
    for (name, count) in [
        ("envs", config.envs.len()),
        ("mounts", config.mounts.len()),
        ("devices", config.devices.len()),
        ("labels", config.labels.len()),
        ("annotations", config.annotations.len()),
    ] {
        if count > MAX_ITEMS {
            return Err(invalid(name, format!("more than {MAX_ITEMS}")));
        }
    }
    let linux = config.linux.unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    if context.privileged && !pod.spec.privileged {
        return Err(invalid(
            "security_context.privileged",
            "the sandbox was not made for privileged containers",
        ));
    }
    let mut process = ProcessSpec {
        entrypoint: Some(config.command).filter(|words| !words.is_empty()),
        cmd: Some(config.args).filter(|words| !words.is_empty()),
        env: config.envs.into_iter().map(variable).collect::<Result<_, _>>()?,
        working_dir: config.working_dir,
        tty: config.tty,
        open_stdin: config.stdin,
        stdin_once: config.stdin_once,
        ..ProcessSpec::default()
    };
    security::user(&context, &mut process)?;
    let mut limits = resources::limits(&linux.resources.unwrap_or_default())?;
    limits.cgroup_parent.clone_from(&pod.spec.cgroup_parent);
    limits.devices = config.devices.into_iter().map(device).collect();
    limits.cdi_devices = config.cdi_devices.into_iter().map(|device| device.name).collect();
    let labels: BTreeMap<String, String> = config.labels.into_iter().collect();
    let member = PodMember {
        pod: pod.id.clone(),
        name: metadata.name,
        attempt: metadata.attempt,
        labels: labels.clone(),
        annotations: config.annotations.into_iter().collect(),
        log_path: config.log_path,
        user_specified_image: image.user_specified_image,
    };
    Ok(ContainerSpec {
        image_name: image.image,
        process,
        labels,
        hostname: pod.spec.hostname.clone(),
        stop_signal: signal::parse(config.stop_signal)?,
        mounts: config
            .mounts
            .iter()
            .map(|mount| mount::parse(mount, pod.spec.namespaces.user.as_ref()))
            .collect::<Result<_, _>>()?,
        namespaces: namespaces(&context.namespace_options.clone().unwrap_or_default(), pod)?,
        network: NetworkSpec {
            mode: match pod.spec.namespaces.network {
                Scope::Pod => NetworkMode::Pod,
                Scope::Node => NetworkMode::Host,
            },
            ..NetworkSpec::default()
        },
        resources: limits,
        security: security::rights(&context, machine)?,
        log: log(&pod.spec.log_directory, &member.log_path)?,
        runtime: None,
        read_only_rootfs: context.readonly_rootfs,
        init: Some(false),
        pod: Some(member),
        ..ContainerSpec::default()
    })
}

fn variable(pair: cri::KeyValue) -> Result<String, Status> {
    let value = String::from_utf8(pair.value)
        .map_err(|_| invalid("envs", format!("the value of {:?} is not UTF-8", pair.key)))?;
    if pair.key.is_empty() || pair.key.contains(['=', '\0']) {
        return Err(invalid("envs", format!("{:?} is no name of a variable", pair.key)));
    }
    Ok(format!("{}={value}", pair.key))
}

fn device(device: cri::Device) -> DeviceSpec {
    DeviceSpec {
        container_path: match device.container_path.as_str() {
            "" => device.host_path.clone(),
            path => path.to_owned(),
        },
        host_path: device.host_path,
        permissions: match device.permissions.as_str() {
            "" => "rwm".to_owned(),
            some => some.to_owned(),
        },
    }
}

/// A log goes below its pod's directory and nowhere else.
fn log(directory: &str, path: &str) -> Result<LogSpec, Status> {
    if directory.is_empty() || path.is_empty() {
        return Ok(LogSpec { driver: LogDriver::None, options: BTreeMap::new() });
    }
    let outside = path.starts_with('/') || path.split('/').any(|part| part == "..");
    match clean_path(&format!("{directory}/{path}")) {
        Some(file) if !outside && !path.ends_with('/') => Ok(LogSpec::cri(&file)),
        _ => Err(invalid("log_path", format!("{path:?} is not below the log directory"))),
    }
}

fn namespaces(options: &cri::NamespaceOption, pod: &PodView) -> Result<Namespaces, Status> {
    use cri::NamespaceMode::{Container, Node, Pod, Target};
    let shared = &pod.spec.namespaces;
    let pid = match (options.pid(), shared.pid) {
        (Pod, PidScope::Pod) => PidMode::Pod,
        // There is nothing that it could share.
        (Pod, PidScope::Container) | (Container, _) => PidMode::Private,
        (Pod, PidScope::Node) | (Node, _) => PidMode::Host,
        (Target, _) if options.target_id.is_empty() => {
            return Err(invalid("namespace_options.target_id", "is empty"));
        }
        (Target, _) => PidMode::Container(options.target_id.clone()),
    };
    Ok(Namespaces { pid, ..Namespaces::of_pod(shared) })
}

fn metadata(member: &PodMember) -> cri::ContainerMetadata {
    cri::ContainerMetadata { name: member.name.clone(), attempt: member.attempt }
}

/// Whether it was to run and could not.
fn failed_to_start(view: &ContainerView) -> bool {
    view.state.status == State::Created && view.state.finished_at.is_some()
}

pub(crate) fn state(view: &ContainerView) -> cri::ContainerState {
    match view.state.status {
        State::Created if failed_to_start(view) => cri::ContainerState::ContainerExited,
        State::Created => cri::ContainerState::ContainerCreated,
        State::Running | State::Paused => cri::ContainerState::ContainerRunning,
        State::Exited | State::Restarting => cri::ContainerState::ContainerExited,
        State::Removing | State::Dead => cri::ContainerState::ContainerUnknown,
    }
}

fn image(view: &ContainerView, member: &PodMember) -> cri::ImageSpec {
    cri::ImageSpec {
        image: view.spec.image_name.clone(),
        user_specified_image: member.user_specified_image.clone(),
        ..Default::default()
    }
}

/// A line of a list.
pub(crate) fn item(view: &ContainerView, member: &PodMember) -> cri::Container {
    cri::Container {
        id: view.id.to_string(),
        pod_sandbox_id: member.pod.to_string(),
        metadata: Some(metadata(member)),
        image: Some(image(view, member)),
        image_ref: view.image.to_string(),
        state: state(view).into(),
        created_at: nanoseconds(Some(view.created)),
        labels: member.labels.clone().into_iter().collect(),
        annotations: member.annotations.clone().into_iter().collect(),
        image_id: view.image.to_string(),
    }
}

pub(crate) fn status(
    view: &ContainerView,
    member: &PodMember,
    user: Option<&ProcessUser>,
) -> cri::ContainerStatus {
    let now = state(view);
    let over = now == cri::ContainerState::ContainerExited;
    let exit_code = match failed_to_start(view) {
        true => NOT_STARTED,
        false => view.state.exit_code,
    };
    let reason = match () {
        () if !over => "",
        () if failed_to_start(view) => START_ERROR,
        () if view.state.oom_killed => OOM_KILLED,
        () if exit_code == 0 => COMPLETED,
        () => ERROR,
    };
    let user = user.map(|user| cri::ContainerUser {
        linux: Some(cri::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.iter().map(|gid| i64::from(*gid)).collect(),
        }),
    });
    cri::ContainerStatus {
        id: view.id.to_string(),
        metadata: Some(metadata(member)),
        state: now.into(),
        created_at: nanoseconds(Some(view.created)),
        started_at: nanoseconds(view.state.started_at),
        finished_at: if over { nanoseconds(view.state.finished_at) } else { 0 },
        exit_code: if over { exit_code } else { 0 },
        image: Some(image(view, member)),
        image_ref: view.image.to_string(),
        reason: reason.to_owned(),
        message: view.state.error.clone(),
        labels: member.labels.clone().into_iter().collect(),
        annotations: member.annotations.clone().into_iter().collect(),
        mounts: view.mounts.iter().map(mount::render).collect(),
        log_path: view.spec.log.cri_path().unwrap_or_default().to_owned(),
        resources: Some(cri::ContainerResources {
            linux: Some(resources::render(&view.spec.resources)),
            windows: None,
        }),
        image_id: view.image.to_string(),
        user,
        stop_signal: view.spec.stop_signal.map_or(0, |s| signal::render(s).into()),
    }
}

/// Who a container is, for figures.
pub(crate) fn attributes(view: &ContainerView, member: &PodMember) -> cri::ContainerAttributes {
    cri::ContainerAttributes {
        id: view.id.to_string(),
        metadata: Some(metadata(member)),
        labels: member.labels.clone().into_iter().collect(),
        annotations: member.annotations.clone().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pouch_engine::PodPhase;
    use pouch_types::pod::PodSpec;

    use super::*;

    const PLAIN: Machine = Machine { apparmor: false };

    fn pod() -> PodView {
        PodView {
            id: "a".repeat(64).parse().unwrap(),
            spec: Arc::new(PodSpec { log_directory: "/logs".into(), ..PodSpec::default() }),
            created: jiff::Timestamp::UNIX_EPOCH,
            phase: PodPhase::Ready,
            ips: Vec::new(),
            netns: None,
            pid: 0,
        }
    }

    fn config() -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 1 }),
            image: Some(cri::ImageSpec { image: "busybox".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_container_shares_what_its_pod_shares() {
        let spec = spec(config(), &pod(), PLAIN).unwrap();
        assert_eq!(spec.namespaces.pid, PidMode::Pod);
        assert_eq!(spec.namespaces.ipc, pouch_types::spec::IpcMode::Pod);
        assert_eq!(spec.network.mode, NetworkMode::Pod);
        let target = cri::NamespaceOption {
            pid: cri::NamespaceMode::Target.into(),
            target_id: "t".into(),
            ..Default::default()
        };
        let found = namespaces(&target, &pod()).unwrap();
        assert_eq!(found.pid, PidMode::Container("t".into()));
    }

    #[test]
    fn logs_stay_below_their_directory() {
        let file = |path: &str| log("/logs", path).map(|log| log.cri_path().map(str::to_owned));
        assert_eq!(file("c/0.log").unwrap().as_deref(), Some("/logs/c/0.log"));
        assert_eq!(file("").unwrap(), None);
        for path in ["../x.log", "c/../../x", "/etc/passwd", "c/"] {
            assert!(file(path).unwrap_err().message().contains("log_path"), "{path}");
        }
    }

    #[test]
    fn privileged_containers_need_a_privileged_pod() {
        let mut asked = config();
        asked.linux = Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                privileged: true,
                ..Default::default()
            }),
            ..Default::default()
        });
        let error = spec(asked, &pod(), PLAIN).unwrap_err();
        assert!(error.message().contains("privileged"), "{error}");
    }

    #[test]
    fn variables_have_names_and_are_text() {
        let pair = |key: &str, value: &[u8]| cri::KeyValue { key: key.into(), value: value.into() };
        assert_eq!(variable(pair("A", b"b=c")).unwrap(), "A=b=c");
        for wrong in [pair("", b"x"), pair("A=B", b""), pair("A", b"\xff")] {
            assert!(variable(wrong).is_err());
        }
    }
}
