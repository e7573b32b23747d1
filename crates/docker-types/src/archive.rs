//! Copying files in and out of a container.

wire! { "camelCase";
    /// What `X-Docker-Container-Path-Stat` holds, as base64 of JSON.
    pub struct PathStat {
        /// Base name of the path.
        pub name: String,
        /// Bytes.
        pub size: i64,
        /// Go's `os.FileMode`: permission bits and Go's own type bits, not `st_mode`.
        pub mode: u32,
        /// RFC 3339.
        pub mtime: String,
        /// Where a symbolic link points to, cleaned and absolute in the container.
        pub link_target: String,
    }
}

/// Go's type bits of `os.FileMode` (package io/fs).
pub mod mode {
    /// Directory.
    pub const DIR: u32 = 1 << 31;
    /// Symbolic link.
    pub const SYMLINK: u32 = 1 << 27;
    /// Device node.
    pub const DEVICE: u32 = 1 << 26;
    /// FIFO.
    pub const NAMED_PIPE: u32 = 1 << 25;
    /// Unix socket.
    pub const SOCKET: u32 = 1 << 24;
    /// set-user-ID.
    pub const SETUID: u32 = 1 << 23;
    /// set-group-ID.
    pub const SETGID: u32 = 1 << 22;
    /// Character device; `DEVICE` is set too.
    pub const CHAR_DEVICE: u32 = 1 << 21;
    /// Sticky.
    pub const STICKY: u32 = 1 << 20;

    /// Converts the `st_mode` of stat(2).
    #[must_use]
    pub const fn from_unix(st_mode: u32) -> u32 {
        let mut mode = st_mode & 0o777;
        mode |= match st_mode & 0o170_000 {
            0o040_000 => DIR,
            0o120_000 => SYMLINK,
            0o060_000 => DEVICE,
            0o020_000 => DEVICE | CHAR_DEVICE,
            0o010_000 => NAMED_PIPE,
            0o140_000 => SOCKET,
            _ => 0,
        };
        if st_mode & 0o4000 != 0 {
            mode |= SETUID;
        }
        if st_mode & 0o2000 != 0 {
            mode |= SETGID;
        }
        if st_mode & 0o1000 != 0 {
            mode |= STICKY;
        }
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::mode;

    #[test]
    fn modes_are_gos() {
        assert_eq!(mode::from_unix(0o100_644), 0o644);
        assert_eq!(mode::from_unix(0o040_755), 0x8000_01ed);
        assert_eq!(mode::from_unix(0o120_777), 0x0800_01ff);
        assert_eq!(mode::from_unix(0o041_777), mode::DIR | mode::STICKY | 0o777);
        assert_eq!(mode::from_unix(0o104_755), mode::SETUID | 0o755);
        assert_eq!(mode::from_unix(0o020_666), mode::DEVICE | mode::CHAR_DEVICE | 0o666);
    }
}
