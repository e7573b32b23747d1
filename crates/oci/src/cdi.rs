//! CDI devices: what the files of their vendors change of a finished specification.
//!
//! The last word on it, after everything that the request says: a device that lacks one of its
//! variables or libraries does not work. Only where a mount or a node may be is checked here as it
//! is for everybody; the files are the administrator's.

use pouch_cdi::{DeviceNode, HookStage, NodeKind};

use crate::context::BuildContext;
use crate::error::SpecError;
use crate::mount::{check_destination, depth};
use crate::process::{check_variables, overlay};
use crate::spec::{Device, DeviceKind, DeviceRule, Hook, Mount, Spec};

const FIELD: &str = "HostConfig.DeviceRequests";

/// Applies the changes of all devices.
pub(crate) fn apply(context: &BuildContext<'_>, spec: &mut Spec) -> Result<(), SpecError> {
    if context.spec.resources.cdi_devices.is_empty() {
        return Ok(());
    }
    let Some(edits) = context.cdi else {
        return Err(SpecError::unsupported(FIELD, "CDI devices"));
    };
    let process = &mut spec.process;
    process.env = overlay(std::mem::take(&mut process.env), &edits.env)?;
    check_variables(&process.env)?;
    for gid in &edits.additional_gids {
        if !process.user.additional_gids.contains(gid) {
            process.user.additional_gids.push(*gid);
        }
    }
    for asked in &edits.device_nodes {
        add_node(context, asked, spec)?;
    }
    for asked in &edits.mounts {
        check_destination(FIELD, &asked.destination)?;
        let place = asked.destination.trim_end_matches('/');
        spec.mounts.retain(|mount| mount.destination.trim_end_matches('/') != place);
        spec.mounts.push(mount(asked));
    }
    if !edits.mounts.is_empty() {
        // Stable: those of one depth stay as they are. Nothing may be covered by what it lies in.
        spec.mounts.sort_by_key(|mount| depth(&mount.destination));
    }
    for asked in &edits.hooks {
        let list = match asked.stage {
            HookStage::Prestart => &mut spec.hooks.prestart,
            HookStage::CreateRuntime => &mut spec.hooks.create_runtime,
            HookStage::CreateContainer => &mut spec.hooks.create_container,
            HookStage::StartContainer => &mut spec.hooks.start_container,
            HookStage::Poststart => &mut spec.hooks.poststart,
            HookStage::Poststop => &mut spec.hooks.poststop,
        };
        list.push(Hook {
            path: asked.path.clone(),
            args: asked.args.clone(),
            env: asked.env.clone(),
            timeout: asked.timeout,
        });
    }
    Ok(())
}

fn mount(asked: &pouch_cdi::Mount) -> Mount {
    let mut options = asked.options.clone();
    let bind = options.iter().any(|option| option == "bind" || option == "rbind");
    if !bind && matches!(asked.kind.as_str(), "" | "bind") {
        options.insert(0, "rbind".to_owned());
    }
    Mount {
        destination: asked.destination.clone(),
        kind: if asked.kind.is_empty() { "bind" } else { &asked.kind }.to_owned(),
        source: asked.source.clone(),
        options,
        ..Mount::default()
    }
}

/// The node and the right to use it. What the file leaves out is looked up on the host, which need
/// not have the node when type and numbers are given.
fn add_node(
    context: &BuildContext<'_>,
    asked: &DeviceNode,
    spec: &mut Spec,
) -> Result<(), SpecError> {
    check_destination(FIELD, &asked.path)?;
    let kind = asked.kind.map(|kind| match kind {
        NodeKind::Block => DeviceKind::B,
        NodeKind::Char => DeviceKind::C,
    });
    let found = context.devices.node(&asked.host_path);
    let (kind, (major, minor), host_mode) = match (kind, asked.numbers, found) {
        (Some(kind), Some(numbers), found) => {
            (kind, numbers, found.ok().flatten().and_then(|node| node.file_mode))
        }
        (kind, numbers, Ok(Some(node))) => {
            if kind.is_some_and(|kind| kind != node.kind) {
                return Err(SpecError::invalid(
                    FIELD,
                    format!("{} is a device of another type", asked.host_path),
                ));
            }
            (node.kind, numbers.unwrap_or((node.major, node.minor)), node.file_mode)
        }
        (_, _, Ok(None)) => {
            return Err(SpecError::invalid(
                FIELD,
                format!("{} is no device node", asked.host_path),
            ));
        }
        (_, _, Err(source)) => {
            return Err(SpecError::Device { field: FIELD, path: asked.host_path.clone(), source });
        }
    };
    // The process gets the node when the file does not say whose it is.
    let user = &spec.process.user;
    let own = |id: u32| (id > 0).then_some(id);
    let device = Device {
        path: asked.path.clone(),
        kind,
        major,
        minor,
        file_mode: asked.file_mode.or(host_mode),
        uid: asked.uid.or_else(|| own(user.uid)),
        gid: asked.gid.or_else(|| own(user.gid)),
    };
    spec.linux.devices.retain(|known| known.path != device.path);
    spec.linux.devices.push(device);
    // A privileged container may use all of them already.
    if !context.spec.security.privileged && !asked.access.is_empty() {
        spec.linux.resources.devices.push(DeviceRule {
            allow: true,
            kind: Some(kind),
            major: Some(major),
            minor: Some(minor),
            access: asked.access.clone(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pouch_cdi::{Edits, Hook as CdiHook, Mount as CdiMount};

    use super::*;
    use crate::context::{Access, ResolvedKind, ResolvedMount, SourcePropagation};
    use crate::fixture::Fixture;

    fn node(path: &str) -> DeviceNode {
        DeviceNode {
            path: path.to_owned(),
            host_path: path.to_owned(),
            kind: None,
            numbers: None,
            file_mode: None,
            access: "rw".to_owned(),
            uid: None,
            gid: None,
        }
    }

    fn with(edits: Edits) -> Fixture {
        let mut fixture = Fixture::new();
        fixture.spec.resources.cdi_devices = vec!["vendor.com/gpu=0".to_owned()];
        fixture.cdi = Some(edits);
        fixture
    }

    #[test]
    fn variables_groups_and_hooks() {
        let hook = CdiHook {
            stage: HookStage::CreateContainer,
            path: "/bin/hook".to_owned(),
            args: vec!["hook".to_owned(), "x".to_owned()],
            env: Vec::new(),
            timeout: Some(3),
        };
        let mut fixture = with(Edits {
            env: vec!["GPU=0".to_owned(), "A=vendor".to_owned()],
            hooks: vec![hook.clone(), CdiHook { stage: HookStage::Poststop, ..hook }],
            additional_gids: vec![10, 44, 44],
            ..Edits::default()
        });
        fixture.spec.process.env = vec!["A=user".to_owned()];
        let spec = fixture.build().unwrap().spec;
        let env = &spec.process.env;
        assert!(env.contains(&"GPU=0".to_owned()) && env.contains(&"A=vendor".to_owned()));
        assert!(!env.contains(&"A=user".to_owned()));
        assert_eq!(spec.process.user.additional_gids, [0, 10, 44]);
        let json = serde_json::to_value(&spec).unwrap();
        assert_eq!(
            json["hooks"],
            serde_json::json!({
                "createContainer": [{"path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}],
                "poststop": [{"path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}],
            })
        );
        let read: oci_spec::runtime::Spec = serde_json::from_value(json).unwrap();
        assert_eq!(read.hooks().as_ref().unwrap().poststop().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn nodes_are_completed_from_the_host_and_belong_to_the_process() {
        let mut fixture = with(Edits {
            device_nodes: vec![
                DeviceNode { path: "/dev/in".to_owned(), ..node("/dev/null") },
                DeviceNode {
                    kind: Some(NodeKind::Block),
                    numbers: Some((7, 9)),
                    access: String::new(),
                    uid: Some(0),
                    ..node("/dev/absent")
                },
            ],
            ..Edits::default()
        });
        fixture.user.uid = 1000;
        let built = fixture.build().unwrap().spec;
        let [first, second] = built.linux.devices.as_slice() else { panic!("{built:?}") };
        assert_eq!(
            (first.path.as_str(), first.kind, first.major, first.minor),
            ("/dev/in", DeviceKind::C, 1, 3)
        );
        assert_eq!((first.uid, first.gid), (Some(1000), None));
        assert_eq!((second.kind, second.major, second.minor), (DeviceKind::B, 7, 9));
        assert_eq!((second.uid, second.file_mode), (Some(0), None));
        let rules = &built.linux.resources.devices;
        assert_eq!(rules.last().unwrap().access, "rw");
        assert!(!rules.iter().any(|rule| rule.major == Some(7)), "none gives no right");

        for bad in [
            node("/dev/absent"),
            DeviceNode { kind: Some(NodeKind::Block), ..node("/dev/null") },
            DeviceNode { path: "/proc/self/x".to_owned(), ..node("/dev/null") },
        ] {
            let edits = Edits { device_nodes: vec![bad], ..Edits::default() };
            assert!(with(edits).build().unwrap_err().to_string().contains(FIELD));
        }
    }

    #[test]
    fn a_mount_takes_its_place_and_its_depth() {
        let at = |destination: &str, kind: &str, options: &[&str]| CdiMount {
            source: "/opt/vendor".to_owned(),
            destination: destination.to_owned(),
            kind: kind.to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        };
        let mounts =
            vec![at("/lib", "", &["ro"]), at("/data/in", "", &["bind"]), at("/t", "tmpfs", &[])];
        let mut fixture = with(Edits { mounts, ..Edits::default() });
        let user = |destination: &str| ResolvedMount {
            destination: destination.to_owned(),
            kind: ResolvedKind::Bind {
                source: "/srv".to_owned(),
                non_recursive: false,
                source_propagation: SourcePropagation::Unknown,
            },
            access: Access::ReadWrite,
            propagation: None,
            mapped: false,
        };
        fixture.mounts = vec![user("/lib/"), user("/lib/deep")];
        let spec = fixture.build().unwrap().spec;
        let of = |place: &str| -> Vec<&Mount> {
            spec.mounts.iter().filter(|m| m.destination.trim_end_matches('/') == place).collect()
        };
        let [lib] = of("/lib")[..] else { panic!("{:?}", spec.mounts) };
        assert_eq!((lib.source.as_str(), lib.kind.as_str()), ("/opt/vendor", "bind"));
        assert_eq!(lib.options, ["rbind", "ro"]);
        assert_eq!(of("/data/in")[0].options, ["bind"]);
        assert_eq!((of("/t")[0].kind.as_str(), of("/t")[0].options.len()), ("tmpfs", 0));
        let order = |place: &str| spec.mounts.iter().position(|m| m.destination == place);
        assert!(order("/lib") < order("/lib/deep") && order("/dev") < order("/dev/pts"));
        for place in ["/", "/proc/sys"] {
            let edits = Edits { mounts: vec![at(place, "", &[])], ..Edits::default() };
            assert!(with(edits).build().is_err(), "{place}");
        }
    }
}
