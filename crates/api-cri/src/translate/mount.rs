//! Mounts of a container.

use pouch_cri_grpc as cri;
use pouch_engine::MountPoint;
use pouch_types::pod::{IdRange, UserScope};
use pouch_types::spec::{MountKind, MountOrigin, MountSpec, Propagation, ReadOnlyRecursion};
use tonic::Status;

use super::clean_path;
use crate::error::{invalid, unsupported};

/// A mount as asked for.
pub(crate) fn parse(asked: &cri::Mount, user: Option<&UserScope>) -> Result<MountSpec, Status> {
    let field = "mounts";
    let about = |why: &str| invalid(field, format!("{:?}: {why}", asked.container_path));
    // A relative path is one below the root, as runtimes have always taken it.
    let destination = clean_path(&format!("/{}", asked.container_path.trim_start_matches('/')))
        .filter(|path| path != "/")
        .ok_or_else(|| about("cannot be mounted on"))?;
    if !asked.mount_options.is_empty() {
        return Err(unsupported("mounts.mount_options", "is not supported"));
    }
    let mapped = !(asked.uid_mappings.is_empty() && asked.gid_mappings.is_empty());
    if mapped && !user.is_some_and(|user| is_as(asked, user)) {
        return Err(unsupported("mounts.uidMappings", "have to be those of the pod"));
    }
    let private = asked.propagation() == cri::MountPropagation::PropagationPrivate;
    if asked.recursive_read_only && !(asked.readonly && private) {
        return Err(about("recursive_read_only needs readonly and private propagation"));
    }
    let kind = match &asked.image {
        Some(image) => {
            if !asked.host_path.is_empty() {
                return Err(about("host_path and image exclude each other"));
            }
            if !asked.readonly {
                return Err(about("the files of an image are read-only: set readonly"));
            }
            let subpath = Some(asked.image_sub_path.clone()).filter(|path| !path.is_empty());
            MountKind::Image { image: image.image.clone(), subpath }
        }
        None => MountKind::Bind {
            source: clean_path(&asked.host_path)
                .ok_or_else(|| about("host_path is not an absolute path"))?,
            // kubelet counts on it, for directories.
            create_source: true,
            non_recursive: false,
            read_only_recursion: match asked.recursive_read_only {
                true => ReadOnlyRecursion::Force,
                false => ReadOnlyRecursion::Never,
            },
        },
    };
    Ok(MountSpec {
        destination,
        read_only: asked.readonly,
        mapped,
        kind,
        propagation: Some(match asked.propagation() {
            cri::MountPropagation::PropagationPrivate => Propagation::Rprivate,
            cri::MountPropagation::PropagationHostToContainer => Propagation::Rslave,
            cri::MountPropagation::PropagationBidirectional => Propagation::Rshared,
        }),
        relabel: asked.selinux_relabel.then_some('z'),
        origin: MountOrigin::Mounts,
    })
}

/// Whether the ids of a mount are those of the pod.
fn is_as(asked: &cri::Mount, user: &UserScope) -> bool {
    let same = |asked: &[cri::IdMapping], ours: &[IdRange]| {
        let asked = asked.iter().map(|m| IdRange {
            container: m.container_id,
            host: m.host_id,
            length: m.length,
        });
        asked.eq(ours.iter().copied())
    };
    same(&asked.uid_mappings, &user.uids) && same(&asked.gid_mappings, &user.gids)
}

/// A mount as it is.
pub(crate) fn render(point: &MountPoint) -> cri::Mount {
    let spec = &point.spec;
    let propagation = match spec.propagation {
        Some(Propagation::Shared | Propagation::Rshared) => {
            cri::MountPropagation::PropagationBidirectional
        }
        Some(Propagation::Slave | Propagation::Rslave) => {
            cri::MountPropagation::PropagationHostToContainer
        }
        Some(Propagation::Private | Propagation::Rprivate) | None => {
            cri::MountPropagation::PropagationPrivate
        }
    };
    let mut mount = cri::Mount {
        container_path: spec.destination.clone(),
        readonly: spec.read_only,
        selinux_relabel: spec.relabel.is_some(),
        propagation: propagation.into(),
        ..Default::default()
    };
    match &spec.kind {
        MountKind::Bind { source, read_only_recursion, .. } => {
            mount.host_path.clone_from(source);
            mount.recursive_read_only = *read_only_recursion == ReadOnlyRecursion::Force;
        }
        MountKind::Image { image, subpath } => {
            mount.image = Some(cri::ImageSpec {
                image: image.clone(),
                image_ref: point.image.as_ref().map(|i| i.image.to_string()).unwrap_or_default(),
                ..Default::default()
            });
            mount.image_sub_path = subpath.clone().unwrap_or_default();
        }
        // The image's own volumes.
        MountKind::Volume { .. } => mount.host_path.clone_from(&point.source),
        MountKind::Tmpfs { .. } => {}
    }
    mount
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn bind() -> cri::Mount {
        cri::Mount { container_path: "/c".into(), host_path: "/h".into(), ..Default::default() }
    }

    fn point(spec: MountSpec) -> MountPoint {
        MountPoint {
            spec,
            source: String::new(),
            volume: None,
            driver: None,
            propagation: None,
            anonymous: false,
            image: None,
        }
    }

    #[test]
    fn mounts_come_back_as_they_were_given() {
        for asked in [
            bind(),
            cri::Mount { readonly: true, recursive_read_only: true, ..bind() },
            cri::Mount { propagation: 1, readonly: true, ..bind() },
            cri::Mount { propagation: 2, ..bind() },
        ] {
            assert_eq!(render(&point(parse(&asked, None).unwrap())), asked);
        }
        let relative = cri::Mount { container_path: "c/./d/".into(), ..bind() };
        assert_eq!(parse(&relative, None).unwrap().destination, "/c/d");
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for (asked, code) in [
            (cri::Mount { recursive_read_only: true, ..bind() }, Code::InvalidArgument),
            (
                cri::Mount { recursive_read_only: true, readonly: true, propagation: 1, ..bind() },
                Code::InvalidArgument,
            ),
            (cri::Mount { image: Some(Default::default()), ..bind() }, Code::InvalidArgument),
            (cri::Mount { host_path: "h".into(), ..bind() }, Code::InvalidArgument),
            (cri::Mount { container_path: "/".into(), ..bind() }, Code::InvalidArgument),
            (cri::Mount { mount_options: vec!["x".into()], ..bind() }, Code::Unimplemented),
        ] {
            assert_eq!(parse(&asked, None).unwrap_err().code(), code, "{asked:?}");
        }
    }
}
