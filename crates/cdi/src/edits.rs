//! What a device changes of a container, after its values were checked.

/// All changes, in the order of the devices that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edits {
    /// `NAME=value`; replaces a variable of the same name.
    pub env: Vec<String>,
    /// Nodes to make, and the right to use them.
    pub device_nodes: Vec<DeviceNode>,
    /// Each replaces what is mounted at its place.
    pub mounts: Vec<Mount>,
    /// Programs of the vendor.
    pub hooks: Vec<Hook>,
    /// Further groups of the process; none is 0.
    pub additional_gids: Vec<u32>,
}

impl Edits {
    /// Without any change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn extend(&mut self, more: &Self) {
        self.env.extend_from_slice(&more.env);
        self.device_nodes.extend_from_slice(&more.device_nodes);
        self.mounts.extend_from_slice(&more.mounts);
        self.hooks.extend_from_slice(&more.hooks);
        self.additional_gids.extend_from_slice(&more.additional_gids);
    }
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// In the container, absolute.
    pub path: String,
    /// On the host, absolute; looked at for what is not given here.
    pub host_path: String,
    /// Block or character; `None` is the host's.
    pub kind: Option<NodeKind>,
    /// Numbers of driver and device; `None` are the host's.
    pub numbers: Option<(u32, u32)>,
    /// Permission bits; `None` are the host's.
    pub file_mode: Option<u32>,
    /// Subset of `rwm`; empty gives a node that cannot be used.
    pub access: String,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// Type of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// `b`.
    Block,
    /// `c` and `u`.
    Char,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On the host, or the name that a file system takes.
    pub source: String,
    /// In the container, absolute.
    pub destination: String,
    /// Type of the file system; empty is a bind mount.
    pub kind: String,
    /// As mount(8).
    pub options: Vec<String>,
}

/// A program that the runtime executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub stage: HookStage,
    /// Absolute; on the host, but for [`HookStage::StartContainer`].
    pub path: String,
    /// With the program's name first.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Seconds, more than zero; `None` waits for ever.
    pub timeout: Option<i64>,
}

/// When a hook runs, in the words of the OCI runtime specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum HookStage {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}
