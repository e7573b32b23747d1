//! `user[:group]` of a container, looked up in the container's own files.
//!
//! `/etc/passwd` and `/etc/group` come from the image or from a running container, so they are
//! read through [`RootFd`], bounded, and every line that does not parse is passed over. No NSS.
//!
//! Invariants: ids are within 0..=2^31-1; a string of digits is a number and never a name, even if
//! the file has such a name; the primary group is always among the supplementary ones, so that
//! a file which denies its group access denies this process too.

use pouch_rootfd::RootFd;
use pouch_types::spec::GroupsPolicy;
use pouch_types::{Classified, ErrorKind};

use crate::error::UserError;

/// Bytes of a passwd or group file; a directory of ten thousand users fits.
const FILE_CAP: u64 = 1 << 20;
/// Supplementary groups; the kernel's NGROUPS_MAX is 65536, a process with more than this is an
/// attack or a mistake.
const MAX_GROUPS: usize = 4096;
/// The largest id: Docker's limit, below the kernel's reserved -1 whatever the type's sign.
const MAX_ID: u32 = i32::MAX as u32;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one first, each once.
    pub additional_gids: Vec<u32>,
    /// Home directory from the passwd file; `/` without an entry.
    pub home: String,
}

/// Looks up who `user[:group]` is below `root`, with `group_add` as further groups.
///
/// An empty string is uid 0. A user by number need not be in the file: it has gid 0 then. Missing
/// files are empty ones.
///
/// # Errors
/// [`UserError`]; Docker's messages for unknown names and numbers out of range.
pub fn resolve_user(
    root: &RootFd,
    user: &str,
    group_add: &[String],
    policy: GroupsPolicy,
) -> Result<ResolvedUser, UserError> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    resolve_user_in(&passwd, &group, user, group_add, policy)
}

fn read(root: &RootFd, path: &'static str) -> Result<String, UserError> {
    match root.open_file(path, FILE_CAP).and_then(pouch_rootfd::BoundedFile::read_all) {
        // A comment in another encoding must not lock everybody out.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(UserError::File { path, source }),
    }
}

/// As [`resolve_user`], on the text of the two files.
///
/// # Errors
/// As [`resolve_user`].
pub fn resolve_user_in(
    passwd: &str,
    group: &str,
    user: &str,
    group_add: &[String],
    policy: GroupsPolicy,
) -> Result<ResolvedUser, UserError> {
    let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
    let wanted_user = Wanted::parse(user_part)?;
    let wanted_group = Wanted::parse(group_part)?;

    let entry = passwd.lines().filter_map(PasswdEntry::parse).find(|entry| match &wanted_user {
        Wanted::Nothing => entry.uid == 0,
        Wanted::Id(uid) => entry.uid == *uid,
        Wanted::Name(name) => entry.name == *name,
    });
    let (uid, mut gid, home) = match (&entry, &wanted_user) {
        (Some(entry), _) => (in_range(entry.uid)?, in_range(entry.gid)?, entry.home),
        (None, Wanted::Nothing) => (0, 0, ""),
        (None, Wanted::Id(uid)) => (*uid, 0, ""),
        (None, Wanted::Name(name)) => return Err(UserError::UnknownUser((*name).to_owned())),
    };

    let mut supplementary = Vec::new();
    match &wanted_group {
        Wanted::Id(id) => gid = *id,
        Wanted::Name(name) => {
            gid = group
                .lines()
                .filter_map(GroupEntry::parse)
                .find(|entry| entry.name == *name)
                .ok_or_else(|| UserError::UnknownGroup((*name).to_owned()))
                .and_then(|entry| in_range(entry.gid))?;
        }
        Wanted::Nothing => {}
    }
    let from_file = match policy {
        GroupsPolicy::UserAlone => matches!(wanted_group, Wanted::Nothing),
        GroupsPolicy::Merge => true,
        GroupsPolicy::Strict => false,
    };
    if let Some(user) = entry.as_ref().filter(|_| from_file) {
        for entry in group.lines().filter_map(GroupEntry::parse) {
            if entry.members.split(',').any(|member| member == user.name) {
                push(&mut supplementary, in_range(entry.gid)?)?;
            }
        }
    }

    let mut additional_gids = vec![gid];
    for id in supplementary {
        push(&mut additional_gids, id)?;
    }
    for name in group_add {
        push(&mut additional_gids, group_id(group, name)?)?;
    }
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    if home.contains(|c: char| c.is_control()) {
        return Err(UserError::Malformed(home));
    }
    Ok(ResolvedUser { uid, gid, additional_gids, home })
}

fn group_id(group: &str, name: &str) -> Result<u32, UserError> {
    match Wanted::parse(name)? {
        Wanted::Id(id) => Ok(id),
        Wanted::Nothing => Err(UserError::UnknownGroup(String::new())),
        Wanted::Name(name) => group
            .lines()
            .filter_map(GroupEntry::parse)
            .find(|entry| entry.name == name)
            .ok_or_else(|| UserError::UnknownGroup(name.to_owned()))
            .and_then(|entry| in_range(entry.gid)),
    }
}

fn push(list: &mut Vec<u32>, id: u32) -> Result<(), UserError> {
    if !list.contains(&id) {
        if list.len() >= MAX_GROUPS {
            return Err(UserError::TooMany { what: "groups", limit: MAX_GROUPS });
        }
        list.push(id);
    }
    Ok(())
}

const fn in_range(id: u32) -> Result<u32, UserError> {
    if id > MAX_ID { Err(UserError::OutOfRange) } else { Ok(id) }
}

/// One side of `user:group`.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Nothing,
    Id(u32),
    Name(&'a str),
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Result<Self, UserError> {
        if text.is_empty() {
            return Ok(Self::Nothing);
        }
        if text.len() > 256 || text.contains(|c: char| c.is_control() || c == ':') {
            return Err(UserError::Malformed(text.chars().take(64).collect()));
        }
        // Also a sign before digits is a number, as Go's Atoi has it; digits of other scripts are
        // letters of a name, which no entry has.
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            let id = text.parse::<i64>().map_err(|_| UserError::OutOfRange)?;
            let id = u32::try_from(id).map_err(|_| UserError::OutOfRange)?;
            return in_range(id).map(Self::Id);
        }
        Ok(Self::Name(text))
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    /// `name:password:uid:gid:comment:home:shell`.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name, uid, gid, home })
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    /// `name:password:gid:member,member`.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        Some(Self { name, gid, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# comment
daemon:x:1:1::/usr/sbin:/bin/false
app:x:1000:1000:App,,,:/home/app:/bin/sh
100000000000000000000:x:0:0::/:/bin/sh
4294967295:x:0:0::/:/bin/sh
77:x:0:0:trap:/root:/bin/sh
huge:x:4294967294:4294967294::/:/bin/sh
broken:x:one:two
";
    const GROUP: &str = "\
root:x:0:
wheel:x:10:root,app
audio:x:29:app
app:x:1000:
42:x:0:app
huge:x:4294967295:
";

    fn resolve(user: &str) -> Result<ResolvedUser, UserError> {
        resolve_user_in(PASSWD, GROUP, user, &[], GroupsPolicy::UserAlone)
    }

    fn ids(user: &str) -> (u32, u32, Vec<u32>) {
        let found = resolve(user).unwrap();
        (found.uid, found.gid, found.additional_gids)
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(ids(""), (0, 0, vec![0, 10]));
        assert_eq!(ids("root"), (0, 0, vec![0, 10]));
        // `42` is a group that names app, so it counts.
        assert_eq!(ids("app"), (1000, 1000, vec![1000, 10, 29, 0]));
        assert_eq!(ids("1000"), (1000, 1000, vec![1000, 10, 29, 0]));
        assert_eq!(ids("app:audio"), (1000, 29, vec![29]));
        assert_eq!(ids("app:5"), (1000, 5, vec![5]));
        assert_eq!(ids("4711"), (4711, 0, vec![0]));
        assert_eq!(ids("4711:29"), (4711, 29, vec![29]));
        assert_eq!(ids(":29"), (0, 29, vec![29]));
        assert_eq!(resolve("app").unwrap().home, "/home/app");
        assert_eq!(resolve("4711").unwrap().home, "/");
    }

    #[test]
    fn who_says_which_groups() {
        let with = |user, policy| {
            resolve_user_in(PASSWD, GROUP, user, &["7".to_owned()], policy).unwrap().additional_gids
        };
        assert_eq!(with("1000:5", GroupsPolicy::UserAlone), [5, 7]);
        assert_eq!(with("1000:5", GroupsPolicy::Merge), [5, 10, 29, 0, 7]);
        assert_eq!(with("1000", GroupsPolicy::Strict), [1000, 7]);
    }

    #[test]
    fn digits_are_never_a_name() {
        // Entries of these names exist and belong to root.
        assert_eq!(ids("77"), (77, 0, vec![0]));
        assert_eq!(ids("app:42"), (1000, 42, vec![42]));
        for user in [
            "4294967295",
            "2147483648",
            "4294967296",
            "100000000000000000000",
            "65536:4294967296",
            "-1",
            "1:-1",
            "0:2147483648",
        ] {
            assert!(matches!(resolve(user), Err(UserError::OutOfRange)), "{user}");
        }
        for user in ["0x0", "００", "1e3", "-"] {
            assert!(matches!(resolve(user), Err(UserError::UnknownUser(_))), "{user}");
        }
        assert!(matches!(resolve("huge"), Err(UserError::OutOfRange)));
        assert!(matches!(resolve("app:huge"), Err(UserError::OutOfRange)));
        assert_eq!(ids("2147483647:2147483647").0, 2_147_483_647);
    }

    #[test]
    fn unknown_names_have_dockers_words() {
        assert_eq!(
            resolve("nobody").unwrap_err().to_string(),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(
            resolve("app:none").unwrap_err().to_string(),
            "unable to find group none: no matching entries in group file"
        );
        assert_eq!(
            resolve("4294967296").unwrap_err().to_string(),
            "uids and gids must be in range 0-2147483647"
        );
    }

    #[test]
    fn added_groups() {
        let add = |groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
            resolve_user_in(PASSWD, GROUP, "app:app", &groups, GroupsPolicy::UserAlone)
        };
        let found = add(&["audio", "29", "7"]).unwrap();
        assert_eq!(found.additional_gids, [1000, 29, 7]);
        assert!(matches!(add(&["none"]), Err(UserError::UnknownGroup(_))));
        assert!(matches!(add(&["2147483648"]), Err(UserError::OutOfRange)));
        assert!(matches!(add(&["a\nb"]), Err(UserError::Malformed(_))));
    }

    #[test]
    fn bytes_that_end_a_field() {
        for user in ["a\nb", "a\rb", "a\0b", "a:b:c"] {
            assert!(matches!(resolve(user), Err(UserError::Malformed(_))), "{user:?}");
        }
        let passwd = "evil:x:5:5::/ho\u{b}me:/bin/sh\n";
        let found = resolve_user_in(passwd, "", "evil", &[], GroupsPolicy::UserAlone);
        assert!(matches!(found, Err(UserError::Malformed(_))));
    }

    #[test]
    fn the_number_of_groups_is_bounded() {
        use std::fmt::Write;
        let mut group = String::new();
        for gid in 0..=MAX_GROUPS {
            writeln!(group, "g{gid}:x:{}:app", gid + 5000).unwrap();
        }
        assert!(matches!(
            resolve_user_in(PASSWD, &group, "app", &[], GroupsPolicy::UserAlone),
            Err(UserError::TooMany { .. })
        ));
    }

    #[test]
    fn files_below_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootFd::open(dir.path()).unwrap();
        let resolve = |user| resolve_user(&root, user, &[], GroupsPolicy::UserAlone);
        assert_eq!(resolve("12").unwrap().uid, 12);
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
        assert_eq!(resolve("app").unwrap().uid, 1000);

        let huge = std::fs::File::create(dir.path().join("etc/group")).unwrap();
        huge.set_len(4 << 30).unwrap();
        assert!(matches!(resolve("app"), Err(UserError::File { .. })));
        std::fs::remove_file(dir.path().join("etc/group")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("etc/group")).unwrap();
        // The link stays inside the root, where there is no such device.
        assert_eq!(resolve("app").unwrap().gid, 1000);
        std::fs::remove_file(dir.path().join("etc/group")).unwrap();
        std::fs::create_dir(dir.path().join("etc/group")).unwrap();
        assert!(matches!(resolve("app"), Err(UserError::File { .. })));
    }
}
