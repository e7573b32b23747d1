//! Rights of a container.

use pouch_cri_grpc as cri;
use pouch_types::spec::{GroupsPolicy, ProcessSpec, Seccomp, SecuritySpec};
use tonic::Status;

use crate::error::{invalid, unsupported};

/// The largest profile that is read, bytes.
const PROFILE_MAX: u64 = 1 << 20;

/// What the machine can do, as far as it decides here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The kernel confines by AppArmor.
    pub(crate) apparmor: bool,
}

/// Who the process runs as.
pub(crate) fn user(
    context: &cri::LinuxContainerSecurityContext,
    process: &mut ProcessSpec,
) -> Result<(), Status> {
    let id = |field: &str, value: &cri::Int64Value| match u32::try_from(value.value) {
        Ok(id) => Ok(id.to_string()),
        Err(_) => Err(invalid(field, format!("{} is no id", value.value))),
    };
    let user = match (&context.run_as_user, context.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => {
            return Err(invalid("run_as_username", "cannot be given together with run_as_user"));
        }
        (Some(user), _) => id("run_as_user", user)?,
        (None, name) if name.contains(':') => {
            return Err(invalid("run_as_username", format!("{name:?} is no name")));
        }
        (None, name) => name.to_owned(),
    };
    process.user = match &context.run_as_group {
        Some(_) if user.is_empty() => {
            return Err(invalid("run_as_group", "cannot be given without a user"));
        }
        Some(group) => format!("{user}:{}", id("run_as_group", group)?),
        None => user,
    };
    let groups = context
        .supplemental_groups
        .iter()
        .map(|group| id("supplemental_groups", &cri::Int64Value { value: *group }));
    process.group_add = groups.collect::<Result<_, _>>()?;
    process.groups = match context.supplemental_groups_policy() {
        cri::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        cri::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    };
    Ok(())
}

/// What the process may do. Reads a profile from the node's disk.
pub(crate) fn rights(
    context: &cri::LinuxContainerSecurityContext,
    machine: Machine,
) -> Result<SecuritySpec, Status> {
    let capabilities = context.capabilities.clone().unwrap_or_default();
    if !capabilities.add_ambient_capabilities.is_empty() {
        return Err(unsupported("capabilities.add_ambient_capabilities", "is not supported"));
    }
    let names = |list: Vec<String>| list.into_iter().map(|name| capability(&name)).collect();
    // Without SELinux in the kernel there is nothing to label, as on every node that has none.
    let selinux = context.selinux_options.clone().unwrap_or_default();
    if !(selinux.level.is_empty() && selinux.r#type.is_empty()) {
        tracing::debug!("SELinux options have no effect on this node");
    }
    let seccomp = match context.privileged {
        true => Seccomp::Unconfined,
        false => seccomp(context)?,
    };
    let paths = |list: &[String]| match context.privileged {
        true => Vec::new(),
        false => list.to_vec(),
    };
    Ok(SecuritySpec {
        privileged: context.privileged,
        cap_add: names(capabilities.add_capabilities),
        cap_drop: names(capabilities.drop_capabilities),
        seccomp,
        no_new_privileges: Some(context.no_new_privs),
        apparmor: apparmor(context, machine)?,
        selinux: Vec::new(),
        // Also an empty list is meant: kubelet sends the default one where it is wanted.
        masked_paths: Some(paths(&context.masked_paths)),
        readonly_paths: Some(paths(&context.readonly_paths)),
    })
}

fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    match name.as_str() {
        "ALL" => name,
        _ if name.starts_with("CAP_") => name,
        _ => format!("CAP_{name}"),
    }
}

fn seccomp(context: &cri::LinuxContainerSecurityContext) -> Result<Seccomp, Status> {
    use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    #[expect(deprecated, reason = "older kubelets say it so")]
    let path = context.seccomp_profile_path.as_str();
    let (kind, local) = match (&context.seccomp, path) {
        (Some(profile), _) => (profile.profile_type(), profile.localhost_ref.as_str()),
        (None, "" | "unconfined") => (Unconfined, ""),
        (None, "runtime/default" | "docker/default") => (RuntimeDefault, ""),
        (None, path) => match path.strip_prefix("localhost/") {
            Some(local) => (Localhost, local),
            None => return Err(invalid("seccomp_profile_path", format!("{path:?} is unknown"))),
        },
    };
    match kind {
        RuntimeDefault => Ok(Seccomp::Default),
        Unconfined => Ok(Seccomp::Unconfined),
        Localhost => {
            let file = local.strip_prefix("localhost/").unwrap_or(local);
            if !file.starts_with('/') {
                return Err(invalid("seccomp.localhost_ref", format!("{file:?} is not absolute")));
            }
            read(file).map(Seccomp::Profile)
        }
    }
}

fn read(file: &str) -> Result<String, Status> {
    use std::io::Read as _;
    let failed = |e: std::io::Error| invalid("seccomp.localhost_ref", format!("{file}: {e}"));
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(invalid("seccomp.localhost_ref", format!("{file} is no file")));
    }
    opened.take(PROFILE_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn apparmor(
    context: &cri::LinuxContainerSecurityContext,
    machine: Machine,
) -> Result<Option<String>, Status> {
    use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    #[expect(deprecated, reason = "older kubelets say it so")]
    let old = context.apparmor_profile.as_str();
    let (kind, name) = match (&context.apparmor, old) {
        (Some(profile), _) => (profile.profile_type(), profile.localhost_ref.as_str()),
        (None, "" | "runtime/default") => (RuntimeDefault, ""),
        (None, "unconfined") => (Unconfined, ""),
        (None, name) => (Localhost, name),
    };
    match kind {
        RuntimeDefault => Ok(None),
        Unconfined => Ok(Some("unconfined".to_owned())),
        Localhost if !machine.apparmor => Err(Status::failed_precondition(format!(
            "apparmor: profile {name:?} was asked for, and this node has no AppArmor"
        ))),
        Localhost => Ok(Some(name.strip_prefix("localhost/").unwrap_or(name).to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Machine = Machine { apparmor: false };

    fn context() -> cri::LinuxContainerSecurityContext {
        cri::LinuxContainerSecurityContext::default()
    }

    fn process(context: &cri::LinuxContainerSecurityContext) -> Result<ProcessSpec, Status> {
        let mut process = ProcessSpec::default();
        user(context, &mut process).map(|()| process)
    }

    #[test]
    fn users_and_groups() {
        let id = |value| Some(cri::Int64Value { value });
        let both = cri::LinuxContainerSecurityContext {
            run_as_user: id(1000),
            run_as_group: id(2000),
            supplemental_groups: vec![5],
            supplemental_groups_policy: cri::SupplementalGroupsPolicy::Strict.into(),
            ..context()
        };
        let found = process(&both).unwrap();
        assert_eq!((found.user.as_str(), &*found.group_add), ("1000:2000", &["5".to_owned()][..]));
        assert_eq!(found.groups, GroupsPolicy::Strict);
        assert_eq!(process(&context()).unwrap().user, "", "the image's");
        let group = cri::LinuxContainerSecurityContext { run_as_group: id(1), ..context() };
        assert!(process(&group).unwrap_err().message().contains("run_as_group"));
        let negative = cri::LinuxContainerSecurityContext { run_as_user: id(-1), ..context() };
        assert!(process(&negative).unwrap_err().message().contains("run_as_user"));
        let named =
            cri::LinuxContainerSecurityContext { run_as_username: "www".into(), ..context() };
        assert_eq!(process(&named).unwrap().user, "www");
    }

    #[test]
    fn nothing_is_masked_unless_asked_for() {
        let rights = rights(&context(), PLAIN).unwrap();
        assert_eq!(rights.masked_paths, Some(Vec::new()));
        assert_eq!(rights.seccomp, Seccomp::Unconfined);
        assert_eq!(rights.no_new_privileges, Some(false));
    }

    #[test]
    fn a_privileged_container_is_not_confined() {
        let asked = cri::LinuxContainerSecurityContext {
            privileged: true,
            masked_paths: vec!["/proc/kcore".into()],
            seccomp: Some(cri::SecurityProfile {
                profile_type: cri::security_profile::ProfileType::Localhost.into(),
                localhost_ref: "/nowhere".into(),
            }),
            ..context()
        };
        let rights = rights(&asked, PLAIN).unwrap();
        assert_eq!((rights.seccomp, rights.masked_paths), (Seccomp::Unconfined, Some(Vec::new())));
    }

    #[test]
    fn profiles_that_are_not_there_are_errors() {
        let local = |file: &str| cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::Localhost.into(),
            localhost_ref: file.into(),
        };
        for file in ["relative.json", "/nonexistent/profile.json", "/proc"] {
            let asked =
                cri::LinuxContainerSecurityContext { seccomp: Some(local(file)), ..context() };
            let error = rights(&asked, PLAIN).unwrap_err();
            assert!(error.message().contains("localhost_ref"), "{error}");
        }
        let asked = cri::LinuxContainerSecurityContext { apparmor: Some(local("x")), ..context() };
        assert!(rights(&asked, PLAIN).unwrap_err().message().contains("AppArmor"));
        let with = rights(&asked, Machine { apparmor: true }).unwrap();
        assert_eq!(with.apparmor.as_deref(), Some("x"));
    }

    #[test]
    fn capabilities_have_their_full_names() {
        assert_eq!(capability("net_admin"), "CAP_NET_ADMIN");
        assert_eq!(capability("CAP_CHOWN"), "CAP_CHOWN");
        assert_eq!(capability("all"), "ALL");
    }
}
