//! Whole specifications: as they are for known requests, and what none may ever contain.

use std::collections::BTreeSet;

use pouch_types::spec::{
    CgroupnsMode, DeviceSpec, DeviceValue, IpcMode, PidMode, Propagation, ReadOnlyRecursion,
    Resources, Seccomp, SecuritySpec, Ulimit, UtsMode,
};
use proptest::prelude::*;

use crate::context::{
    Access, CgroupDriver, IdMaps, NetworkNamespace, ResolvedKind, ResolvedMount, SourcePropagation,
};
use crate::error::SpecError;
use crate::fixture::Fixture;
use crate::host::CgroupView;
use crate::spec::{IdMapping, NamespaceKind, Spec};
use crate::{CapabilitySet, ExecProcess, ResolvedUser, Rights, exec};

/// The specification without the long list of system calls, which has tests of its own.
fn shown(fixture: &Fixture) -> Spec {
    let mut spec = fixture.build().unwrap().spec;
    if let Some(seccomp) = &mut spec.linux.seccomp {
        seccomp.syscalls.truncate(1);
        seccomp.syscalls[0].names.truncate(2);
    }
    spec
}

/// What the runtime reads is what was written.
fn read_by_the_runtime(spec: &Spec) -> oci_spec::runtime::Spec {
    let text = serde_json::to_string(spec).unwrap();
    let again: Spec = serde_json::from_str(&text).unwrap();
    assert_eq!(&again, spec);
    serde_json::from_str(&text).unwrap()
}

fn bind(source: &str, destination: &str) -> ResolvedMount {
    ResolvedMount {
        destination: destination.to_owned(),
        kind: ResolvedKind::Bind {
            source: source.to_owned(),
            non_recursive: false,
            source_propagation: SourcePropagation::Unknown,
        },
        access: Access::ReadWrite,
        propagation: None,
        mapped: false,
    }
}

fn kinds(spec: &Spec) -> BTreeSet<NamespaceKind> {
    spec.linux.namespaces.iter().map(|namespace| namespace.kind).collect()
}

fn refused(fixture: &Fixture) -> &'static str {
    match fixture.build() {
        Err(SpecError::Invalid { field, .. } | SpecError::Unsupported { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn default_container() {
    insta::assert_json_snapshot!(shown(&Fixture::new()));
}

#[test]
fn device_rules_are_what_the_kernel_reads() {
    let mut fixture = Fixture::new();
    fixture.spec.resources.device_cgroup_rules = vec!["c 4:* r".to_owned()];
    let runtime = read_by_the_runtime(&fixture.build().unwrap().spec);
    let linux = runtime.linux().clone().unwrap();
    let rules = linux.resources().clone().unwrap().devices().clone().unwrap();
    let text: Vec<String> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(text[0], "a *:* rwm");
    assert_eq!(text[1], "c 1:5 rwm");
    assert_eq!(text.last().unwrap(), "c 4:* r");
}

#[test]
fn privileged() {
    let mut fixture = Fixture::new();
    fixture.spec.security.privileged = true;
    insta::assert_json_snapshot!(shown(&fixture));
}

#[test]
fn read_only_with_tmpfs() {
    let mut fixture = Fixture::new();
    fixture.spec.read_only_rootfs = true;
    fixture.mounts = vec![
        ResolvedMount {
            access: Access::ReadOnly(ReadOnlyRecursion::Best),
            ..bind("/srv/data/deep", "/data/deep")
        },
        bind("/srv/data", "/data"),
        ResolvedMount {
            kind: ResolvedKind::Tmpfs {
                size: Some(1 << 20),
                mode: Some(0o1770),
                options: vec!["exec".to_owned(), "uid=1000".to_owned()],
            },
            ..bind("", "/tmp")
        },
    ];
    insta::assert_json_snapshot!(shown(&fixture));
}

#[test]
fn host_namespaces() {
    let mut fixture = Fixture::new();
    fixture.spec.namespaces.pid = PidMode::Host;
    fixture.spec.namespaces.ipc = IpcMode::Host;
    fixture.spec.namespaces.uts = UtsMode::Host;
    fixture.spec.namespaces.cgroup = Some(CgroupnsMode::Host);
    fixture.namespaces.network = NetworkNamespace::Host;
    insta::assert_json_snapshot!(shown(&fixture));
}

#[test]
fn limits() {
    let mut fixture = Fixture::new();
    let disk = |value| vec![DeviceValue { path: "/dev/vda".to_owned(), value }];
    fixture.spec.resources = Resources {
        memory: Some(64 << 20),
        memory_reservation: Some(32 << 20),
        oom_score_adj: Some(300),
        cpu_shares: Some(512),
        nano_cpus: Some(1_500_000_000),
        cpuset_cpus: Some("3,0-1".to_owned()),
        pids_limit: Some(100),
        blkio_weight: Some(300),
        blkio_read_bps: disk(1 << 20),
        blkio_write_iops: disk(10),
        ulimits: vec![Ulimit { name: "nofile".to_owned(), soft: 1024, hard: -1 }],
        devices: vec![DeviceSpec {
            host_path: "/dev/fuse".to_owned(),
            container_path: "/dev/fuse".to_owned(),
            permissions: "rwm".to_owned(),
        }],
        device_cgroup_rules: vec!["c 226:* r".to_owned()],
        ..Resources::default()
    };
    insta::assert_json_snapshot!(shown(&fixture));
}

#[test]
fn the_first_version_of_cgroups_has_no_namespace_of_its_own() {
    let mut fixture = Fixture::new();
    fixture.host.cgroup = CgroupView::V1;
    assert!(!kinds(&fixture.build().unwrap().spec).contains(&NamespaceKind::Cgroup));
}

#[test]
fn init_goes_where_it_leaves_nothing() {
    let mut fixture = Fixture::new();
    fixture.spec.init = Some(true);
    let spec = fixture.build().unwrap().spec;
    assert_eq!(spec.process.args, ["/dev/init", "--", "sh"]);
    assert_eq!(spec.mounts.iter().filter(|m| m.destination == "/dev/init").count(), 1);
    fixture.mounts = vec![bind("/dev", "/dev")];
    let spec = fixture.build().unwrap().spec;
    assert_eq!(spec.process.args[0], "/sbin/docker-init");
    assert!(spec.mounts.iter().all(|m| !m.destination.starts_with("/dev/")));
    // There is an init already.
    fixture.spec.namespaces.pid = PidMode::Host;
    assert_eq!(fixture.build().unwrap().spec.process.args, ["sh"]);
}

#[test]
fn joined_namespaces_need_their_paths() {
    let mut fixture = Fixture::new();
    fixture.spec.namespaces.pid = PidMode::Container("other".to_owned());
    assert_eq!(refused(&fixture), "HostConfig.PidMode");
    fixture.namespaces.pid = Some("/proc/7/ns/pid".to_owned());
    let spec = fixture.build().unwrap().spec;
    let pid = spec.linux.namespaces.iter().find(|n| n.kind == NamespaceKind::Pid).unwrap();
    assert_eq!(pid.path.as_deref(), Some("/proc/7/ns/pid"));
    fixture.spec.namespaces.ipc = IpcMode::Container("other".to_owned());
    assert_eq!(refused(&fixture), "HostConfig.IpcMode");
}

#[test]
fn shared_memory_follows_the_ipc_mode() {
    let shm = |ipc, path: Option<&str>| {
        let mut fixture = Fixture::new();
        fixture.spec.namespaces.ipc = ipc;
        fixture.spec.shm_size = Some(4096);
        fixture.namespaces.shm = path.map(str::to_owned);
        let spec = fixture.build().unwrap().spec;
        spec.mounts
            .into_iter()
            .find(|mount| mount.destination == "/dev/shm")
            .map(|mount| (mount.kind, mount.source, mount.options.last().cloned().unwrap()))
    };
    let tmpfs = ("tmpfs".to_owned(), "shm".to_owned(), "size=4096".to_owned());
    assert_eq!(shm(IpcMode::Private, None), Some(tmpfs));
    assert_eq!(shm(IpcMode::None, None), None);
    assert_eq!(shm(IpcMode::Host, None).unwrap().1, "/dev/shm");
    assert_eq!(shm(IpcMode::Shareable, Some("/run/x")).unwrap().1, "/run/x");
}

#[test]
fn propagation_reaches_the_root() {
    let mut fixture = Fixture::new();
    let with = |propagation, found| ResolvedMount {
        kind: ResolvedKind::Bind {
            source: "/mnt".to_owned(),
            non_recursive: true,
            source_propagation: found,
        },
        propagation: Some(propagation),
        ..bind("", "/mnt")
    };
    fixture.mounts = vec![with(Propagation::Rslave, SourcePropagation::Shared)];
    assert_eq!(fixture.build().unwrap().spec.linux.rootfs_propagation, "slave");
    fixture.mounts = vec![
        with(Propagation::Rshared, SourcePropagation::Unknown),
        ResolvedMount {
            destination: "/z".to_owned(),
            ..with(Propagation::Slave, SourcePropagation::Slave)
        },
    ];
    let spec = fixture.build().unwrap().spec;
    assert_eq!(spec.linux.rootfs_propagation, "shared");
    assert!(spec.mounts.iter().any(|m| m.options == ["bind", "rshared"]));
    for (propagation, found) in [
        (Propagation::Shared, SourcePropagation::Slave),
        (Propagation::Rslave, SourcePropagation::Private),
    ] {
        fixture.mounts = vec![with(propagation, found)];
        assert_eq!(refused(&fixture), "HostConfig.Binds");
    }
}

#[test]
fn read_only_is_as_deep_as_the_kernel_can() {
    let option = |minor, depth| {
        let mut fixture = Fixture::new();
        fixture.host.kernel = crate::host::KernelVersion { major: 5, minor };
        fixture.mounts =
            vec![ResolvedMount { access: Access::ReadOnly(depth), ..bind("/a", "/a") }];
        fixture.build().map(|built| built.spec.mounts.last().unwrap().options[1].clone())
    };
    assert_eq!(option(12, ReadOnlyRecursion::Best).unwrap(), "rro");
    assert_eq!(option(11, ReadOnlyRecursion::Best).unwrap(), "ro");
    assert_eq!(option(12, ReadOnlyRecursion::Never).unwrap(), "ro");
    assert!(matches!(option(11, ReadOnlyRecursion::Force), Err(SpecError::Unsupported { .. })));
}

#[test]
fn fields_are_named_in_refusals() {
    type Change = fn(&mut Fixture);
    let cases: [(&str, Change); 18] = [
        ("HostConfig.Memory", |f| f.spec.resources.memory = Some(1)),
        ("HostConfig.MemorySwap", |f| f.spec.resources.memory_swap = Some(1 << 30)),
        ("HostConfig.NanoCpus", |f| f.spec.resources.nano_cpus = Some(5_000_000_000)),
        ("HostConfig.CpuPeriod", |f| f.spec.resources.cpu_period = Some(1)),
        ("HostConfig.CpuQuota", |f| f.spec.resources.cpu_quota = Some(1)),
        ("HostConfig.CpusetCpus", |f| f.spec.resources.cpuset_cpus = Some("7".into())),
        ("HostConfig.CpusetMems", |f| f.spec.resources.cpuset_mems = Some("0-9999999".into())),
        ("HostConfig.BlkioWeight", |f| f.spec.resources.blkio_weight = Some(1)),
        ("HostConfig.OomScoreAdj", |f| f.spec.resources.oom_score_adj = Some(1001)),
        ("HostConfig.Ulimits", |f| {
            f.spec.resources.ulimits = vec![Ulimit { name: "nofile".into(), soft: 2, hard: 1 }];
        }),
        ("HostConfig.CapAdd", |f| f.spec.security.cap_add = vec!["NONE".into()]),
        ("HostConfig.Binds", |f| f.mounts = vec![bind("/a", "/b"), bind("/a", "/b")]),
        ("HostConfig.Tmpfs", |f| {
            let kind = ResolvedKind::Tmpfs { size: None, mode: None, options: vec!["x".into()] };
            f.mounts = vec![ResolvedMount { kind, ..bind("", "/t") }];
        }),
        ("HostConfig.DeviceRequests", |f| f.spec.resources.cdi_devices = vec!["a/b=c".into()]),
        ("HostConfig.CgroupParent", |f| f.spec.resources.cgroup_parent = "../../x".into()),
        ("HostConfig.SecurityOpt", |f| f.spec.security.selinux = vec!["type:x".into()]),
        ("Config.WorkingDir", |f| f.spec.process.working_dir = "a".into()),
        ("Config.Cmd", |f| f.spec.process.cmd = None),
    ];
    for (field, change) in cases {
        let mut fixture = Fixture::new();
        change(&mut fixture);
        assert_eq!(refused(&fixture), field);
    }
}

#[test]
fn groups_of_systemd() {
    let mut fixture = Fixture::new();
    assert!(fixture.build().unwrap().spec.linux.cgroups_path.starts_with("/pouch/0123"));
    fixture.spec.resources.cgroup_parent = "pods/one".to_owned();
    assert!(fixture.build().unwrap().spec.linux.cgroups_path.starts_with("/pods/one/0123"));
    fixture.defaults.cgroup_driver = CgroupDriver::Systemd;
    assert_eq!(refused(&fixture), "HostConfig.CgroupParent");
    fixture.spec.resources.cgroup_parent = "user-1000.slice".to_owned();
    let path = fixture.build().unwrap().spec.linux.cgroups_path;
    assert_eq!(path, format!("user-1000.slice:pouch:{}", fixture.id));
}

#[test]
fn what_the_machine_cannot_give_is_warned_of() {
    let mut fixture = Fixture::new();
    fixture.host.hard_limits.insert("nofile".to_owned(), 4096);
    fixture.host.min_oom_score_adj = -100;
    fixture.spec.resources.oom_score_adj = Some(-500);
    fixture.spec.resources.ulimits =
        vec![Ulimit { name: "nofile".to_owned(), soft: 1024, hard: 8192 }];
    fixture.spec.security.apparmor = Some("mine".to_owned());
    fixture.spec.annotations.insert("run.oci.handler".to_owned(), "x".to_owned());
    fixture.defaults.annotation_prefixes = vec![String::new()];
    let built = fixture.build().unwrap();
    assert_eq!(built.warnings.len(), 4, "{:?}", built.warnings);
    assert_eq!(built.spec.process.oom_score_adj, Some(-100));
    assert_eq!(
        (built.spec.process.rlimits[0].soft, built.spec.process.rlimits[0].hard),
        (1024, 4096)
    );
    assert!(built.spec.process.apparmor_profile.is_empty());
    assert!(built.spec.annotations.is_empty());
}

#[test]
fn user_namespaces() {
    let mut fixture = Fixture::new();
    let map = |size| vec![IdMapping { container_id: 0, host_id: 100_000, size }];
    fixture.namespaces.user = Some(IdMaps { uids: map(65_536), gids: map(65_536), path: None });
    let spec = fixture.build().unwrap().spec;
    // The kernel would refuse groups that are not mapped.
    assert!(!spec.linux.sysctl.contains_key("net.ipv4.ping_group_range"));
    assert!(spec.linux.sysctl.contains_key("net.ipv4.ip_unprivileged_port_start"));
    read_by_the_runtime(&spec);
    fixture.namespaces.user = Some(IdMaps { uids: map(u32::MAX), gids: map(65_536), path: None });
    assert_eq!(refused(&fixture), "HostConfig.UsernsMode");
    fixture.namespaces.user = Some(IdMaps::default());
    assert_eq!(refused(&fixture), "HostConfig.UsernsMode");
}

#[test]
fn further_processes() {
    let mut fixture = Fixture::new();
    fixture.spec.security.cap_drop = vec!["ALL".to_owned()];
    fixture.spec.security.no_new_privileges = Some(true);
    let spec = fixture.build().unwrap().spec;
    let args = ["id".to_owned()];
    let user =
        ResolvedUser { uid: 5, gid: 6, additional_gids: vec![], home: "/home/five".to_owned() };
    let asked = ExecProcess {
        args: &args,
        env: &["A=1".to_owned(), "HOSTNAME".to_owned()],
        configured_env: &[],
        working_dir: "/tmp",
        user: Some(&user),
        rights: Rights::Container,
        terminal: Some(Some((24, 80))),
    };
    let process = exec(&spec, &asked, &fixture.host).unwrap();
    assert_eq!(process.user.additional_gids, [6]);
    assert!(process.env.contains(&"HOME=/home/five".to_owned()));
    assert!(process.env.contains(&"TERM=xterm".to_owned()));
    assert!(process.no_new_privileges && process.terminal);
    assert_eq!(process.capabilities, spec.process.capabilities);
    assert!(process.capabilities.unwrap().bounding.is_empty());
    let all = exec(&spec, &ExecProcess { rights: Rights::Privileged, ..asked }, &fixture.host);
    let all = all.unwrap().capabilities.unwrap();
    assert_eq!(all.bounding.len(), CapabilitySet::ALL.names().len());
    assert!(all.inheritable.is_empty() && all.ambient.is_empty());
    assert!(exec(&spec, &ExecProcess { args: &[], ..asked }, &fixture.host).is_err());
}

prop_compose! {
    fn security()(
        privileged in any::<bool>(),
        add in prop::collection::vec(capability(), 0..4),
        drop in prop::collection::vec(capability(), 0..4),
        unconfined in any::<bool>(),
        no_new_privileges in any::<Option<bool>>(),
    ) -> SecuritySpec {
        SecuritySpec {
            privileged,
            cap_add: add,
            cap_drop: drop,
            seccomp: if unconfined { Seccomp::Unconfined } else { Seccomp::Default },
            no_new_privileges,
            ..SecuritySpec::default()
        }
    }
}

fn capability() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["ALL", "CAP_SYS_ADMIN", "CAP_CHOWN", "NET_RAW", "bpf", "CAP_KILL"])
        .prop_map(str::to_owned)
}

proptest! {
    /// Never more privilege than was asked for.
    #[test]
    fn nothing_is_given_unasked(
        security in security(),
        bounding in any::<u64>(),
        network in prop::sample::select(vec![
            NetworkNamespace::New, NetworkNamespace::Host, NetworkNamespace::Own("/n".into()),
        ]),
        host_pid in any::<bool>(),
        destination in "(/proc|/sys|/dev|/a)?(/[a-z.]{0,6}){0,3}/?",
    ) {
        let mut fixture = Fixture::new();
        let bounding = CapabilitySet::from_bits(bounding);
        fixture.host.capabilities = bounding;
        fixture.spec.security = security.clone();
        fixture.namespaces.network = network.clone();
        fixture.spec.namespaces.pid = if host_pid { PidMode::Host } else { PidMode::Private };
        fixture.mounts = vec![bind("/srv", &destination)];
        let Ok(built) = fixture.build() else { return Ok(()) };
        let spec = built.spec;
        let runtime = read_by_the_runtime(&spec);

        let caps = spec.process.capabilities.as_ref().unwrap();
        prop_assert!(caps.inheritable.is_empty() && caps.ambient.is_empty());
        let named = |list: &[String], name: &str| {
            list.iter().any(|own| own.eq_ignore_ascii_case(name) || name.ends_with(own.as_str()))
        };
        for (set, name) in [&caps.bounding, &caps.effective, &caps.permitted]
            .into_iter()
            .flat_map(|set| set.iter().map(move |name| (set, name)))
        {
            let capability = name.parse().unwrap();
            prop_assert!(bounding.contains(capability));
            prop_assert!(caps.bounding.contains(name), "{set:?}");
            let given = security.privileged
                || CapabilitySet::DEFAULT.contains(capability)
                || named(&security.cap_add, name)
                || named(&security.cap_add, "ALL")
                || security.cap_add.iter().any(|a| a.parse() == Ok(capability));
            prop_assert!(given, "{name}");
        }

        let kinds = kinds(&spec);
        prop_assert!(kinds.contains(&NamespaceKind::Mount));
        prop_assert_eq!(!kinds.contains(&NamespaceKind::Network), network == NetworkNamespace::Host);
        prop_assert_eq!(!kinds.contains(&NamespaceKind::Pid), host_pid);

        prop_assert!(spec.mounts.iter().skip(1).all(|m| !m.destination.starts_with("/proc")
            || m.destination == "/proc/stat"), "{:?}", spec.mounts);
        let all_devices = spec.linux.resources.devices.iter().any(|r| r.allow && r.kind.is_none());
        prop_assert_eq!(all_devices, security.privileged);
        prop_assert_eq!(spec.linux.masked_paths.is_empty(), security.privileged);
        let filtered = spec.linux.seccomp.is_some();
        prop_assert_eq!(!filtered, security.privileged || security.seccomp == Seccomp::Unconfined);

        let process = runtime.process().as_ref().unwrap();
        let expected = (security.no_new_privileges == Some(true)).then_some(true);
        prop_assert_eq!(process.no_new_privileges(), expected);
        prop_assert!(process.user().additional_gids().as_ref().unwrap().contains(&0));
    }

    /// Whatever the strings: an answer, and a document that the runtime can read.
    #[test]
    fn strings_do_no_harm(
        env in prop::collection::vec(".{0,20}", 0..4),
        cmd in prop::collection::vec(".{0,20}", 0..3),
        name in ".{0,12}", value in ".{0,12}", rule in ".{0,12}", parent in ".{0,12}",
        cpus in "[0-9,-]{0,8}",
    ) {
        let mut fixture = Fixture::new();
        fixture.spec.process.env = env;
        fixture.spec.process.cmd = Some(cmd);
        fixture.spec.resources.sysctls.insert(name, value);
        fixture.spec.resources.cgroup_parent = parent;
        fixture.spec.resources.cpuset_cpus = Some(cpus);
        if rule.len() > 6 {
            fixture.spec.resources.device_cgroup_rules = vec![rule];
        }
        if let Ok(built) = fixture.build() {
            read_by_the_runtime(&built.spec);
            let path = built.spec.linux.cgroups_path;
            prop_assert!(!path.contains("/../") && path.starts_with('/'));
        }
    }
}
