//! Changing `config.json`: one entry of `auths` at a time, everything else as it was.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::settings::read_capped;

/// Whoever may read the file may push in its owner's name.
const MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Puts `entry` under `registry`, or takes away what is there. Says whether the file changed.
pub(super) fn set(directory: &Path, registry: &str, entry: Option<Value>) -> Result<bool, Failure> {
    let path = directory.join("config.json");
    let mut root = read(&path)?;
    let damaged = || Failure::new(format!("{}: auths is no JSON object", path.display()));
    let changed = match entry {
        Some(entry) => {
            let auths = root.entry("auths").or_insert_with(|| Value::Object(Map::new()));
            if auths.is_null() {
                *auths = Value::Object(Map::new());
            }
            let auths = auths.as_object_mut().ok_or_else(damaged)?;
            auths.insert(registry.to_owned(), entry.clone()) != Some(entry)
        }
        None => match root.get_mut("auths") {
            None | Some(Value::Null) => return Ok(false),
            Some(auths) => auths.as_object_mut().ok_or_else(damaged)?.remove(registry).is_some(),
        },
    };
    if changed {
        replace(&path, &Value::Object(root))?;
    }
    Ok(changed)
}

fn read(path: &Path) -> Result<Map<String, Value>, Failure> {
    let text = match read_capped(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(Failure::io("read", path, &error)),
    };
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("cannot parse {}: {error}", path.display())))
}

/// Writes a new file and puts it in the old one's place, so that whoever reads meanwhile reads one
/// of the two. Where the name is a symbolic link, what it points to is replaced.
fn replace(path: &Path, root: &Value) -> Result<(), Failure> {
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = target.parent().unwrap_or_else(|| Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .map_err(|error| Failure::io("create", directory, &error))?;
    let mut text = Vec::new();
    let pretty = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, pretty);
    serde::Serialize::serialize(root, &mut writer)
        .map_err(|error| Failure::new(format!("cannot encode {}: {error}", path.display())))?;
    let temporary = Temporary(target.with_extension(format!("json.{}", std::process::id())));
    let failed = |error: std::io::Error| Failure::io("write", &temporary.0, &error);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&temporary.0)
        .map_err(failed)?;
    file.set_permissions(Permissions::from_mode(MODE)).map_err(failed)?;
    if let Ok(old) = std::fs::metadata(&target) {
        // It stays its owner's when root changes it.
        let owner = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
        owner.map_err(failed)?;
    }
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&temporary.0, &target).map_err(|error| Failure::io("replace", path, &error))
}

/// A file that goes with its name; after a rename there is none.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_entry_changes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let before = r#"{"psFormat":"x","auths":{"a.example":{"auth":"eA=="}},"n":12345678901234}"#;
        std::fs::write(&path, before).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(set(dir.path(), "b.example", Some(json!({"auth": "eQ=="}))).unwrap());
        let read = || serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            read(),
            json!({"psFormat": "x", "n": 12_345_678_901_234_u64,
                   "auths": {"a.example": {"auth": "eA=="}, "b.example": {"auth": "eQ=="}}})
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        assert!(!set(dir.path(), "b.example", Some(json!({"auth": "eQ=="}))).unwrap());
        assert!(set(dir.path(), "b.example", None).unwrap());
        assert!(!set(dir.path(), "b.example", None).unwrap());
        assert_eq!(read(), serde_json::from_str::<Value>(before).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no file is left behind");
    }

    #[test]
    fn a_link_stays_one_and_damage_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (home, real) = (dir.path().join("home"), dir.path().join("real.json"));
        assert!(set(&home, "x", Some(json!({}))).unwrap(), "the directory is made");
        assert_eq!(std::fs::metadata(&home).unwrap().mode() & 0o777, DIRECTORY_MODE);
        let path = home.join("config.json");
        std::fs::rename(&path, &real).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        assert!(set(&home, "y", Some(json!({}))).unwrap());
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
        assert!(std::fs::read_to_string(&real).unwrap().contains("\"y\""));
        for bad in ["{", "[]", r#"{"auths":[]}"#] {
            std::fs::write(&real, bad).unwrap();
            assert!(set(&home, "z", Some(json!({}))).is_err(), "{bad}");
            assert_eq!(std::fs::read_to_string(&real).unwrap(), bad);
        }
    }
}
