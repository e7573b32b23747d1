//! A directory or file inside a root file system, as a mount of its own.
//!
//! Overlay has no mount of a part, but a part of each of its layers is an overlay again. What a
//! layer hides of those below it on the way down, by a whiteout, a file or an opaque directory, is
//! minded here as the kernel does it. Links in layers are never followed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Result, SnapshotError};
use crate::mount::MountEntry;

/// Marks a directory that hides those below it.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// What one layer says about the path.
enum Found {
    /// Nothing: the layers below decide.
    Nothing,
    /// It is not there, whatever layers below have.
    Hidden,
    /// A directory, which is merged with those below it unless they are hidden.
    Directory(Below),
    /// A file, which hides all below.
    File,
}

/// Whether the layers below a directory count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Merged,
    Hidden,
}

/// What is at `inside` in what `mount` mounts, as a mount. Blocks for a few looks at the layers.
///
/// # Errors
/// [`SnapshotError::NoSubpath`] when there is nothing, or a link on the way;
/// [`SnapshotError::SubpathKind`] for a mount that is neither overlay nor bind; I/O errors.
pub fn below(mount: &MountEntry, inside: &str) -> Result<MountEntry> {
    let missing = || SnapshotError::NoSubpath { path: inside.to_owned() };
    let parts: Vec<&str> = inside.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") || inside.contains('\0') {
        return Err(missing());
    }
    let layers = match mount.kind.as_str() {
        "overlay" => layers_of(&mount.options),
        "bind" => vec![PathBuf::from(&mount.source)],
        kind => return Err(SnapshotError::SubpathKind { kind: kind.to_owned() }),
    };
    let mut directories = Vec::new();
    for layer in layers {
        match look(&layer, &parts)? {
            Found::Nothing => {}
            Found::Hidden => break,
            Found::File if directories.is_empty() => return Ok(bind(&layer, &parts)),
            Found::File => break,
            Found::Directory(below) => {
                directories.push(join(&layer, &parts));
                if below == Below::Hidden {
                    break;
                }
            }
        }
    }
    match directories.as_slice() {
        [] => Err(missing()),
        // Overlay wants two.
        [only] => Ok(bind(only, &[])),
        several => Ok(MountEntry {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![format!(
                "lowerdir={}",
                several.iter().map(|d| escape(d)).collect::<Vec<_>>().join(":")
            )],
        }),
    }
}

fn join(layer: &Path, parts: &[&str]) -> PathBuf {
    parts.iter().fold(layer.to_owned(), |path, part| path.join(part))
}

fn bind(layer: &Path, parts: &[&str]) -> MountEntry {
    MountEntry {
        kind: "bind".to_owned(),
        source: join(layer, parts).display().to_string(),
        options: vec!["rbind".to_owned()],
    }
}

/// A colon separates and a backslash escapes in overlay's options.
fn escape(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace(':', "\\:")
}

/// The layers of an overlay, top first.
fn layers_of(options: &[String]) -> Vec<PathBuf> {
    let value = |name: &'static str| {
        options.iter().filter_map(move |o| o.split_once('=').filter(|(key, _)| *key == name))
    };
    let upper = value("upperdir").map(|(_, path)| PathBuf::from(path));
    let together = value("lowerdir").flat_map(|(_, paths)| split(paths));
    let one_by_one = value("lowerdir+").map(|(_, path)| PathBuf::from(path));
    upper.chain(together).chain(one_by_one).collect()
}

/// Splits at colons that are not escaped.
fn split(paths: &str) -> Vec<PathBuf> {
    let mut all = vec![String::new()];
    let mut escaped = false;
    for c in paths.chars() {
        match (c, escaped) {
            ('\\', false) => escaped = true,
            (':', false) => all.push(String::new()),
            (c, _) => {
                escaped = false;
                if let Some(last) = all.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    all.into_iter().filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

fn look(layer: &Path, parts: &[&str]) -> Result<Found> {
    let failed = |source: Errno| SnapshotError::io("look into", layer, source);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, layer, flags, Mode::empty()).map_err(failed)?;
    let mut below = Below::Merged;
    for (index, part) in parts.iter().enumerate() {
        let stat = match rustix::fs::statat(&at, *part, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if below == Below::Hidden => return Ok(Found::Hidden),
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(errno) => return Err(failed(errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let nofollow = flags | OFlags::NOFOLLOW;
                at = rustix::fs::openat(&at, *part, nofollow, Mode::empty()).map_err(failed)?;
                if is_opaque(&at) {
                    below = Below::Hidden;
                }
            }
            FileType::RegularFile if index + 1 == parts.len() => return Ok(Found::File),
            // A whiteout, a link, or a file where a directory would have to be.
            _ => return Ok(Found::Hidden),
        }
    }
    Ok(Found::Directory(below))
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0u8; 4];
    OPAQUE.iter().any(|name| {
        rustix::fs::fgetxattr(directory, *name, &mut value[..]).is_ok_and(|n| value[..n] == *b"y")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(layers: &[&Path]) -> MountEntry {
        let options = layers.iter().map(|layer| format!("lowerdir+={}", layer.display())).collect();
        MountEntry { kind: "overlay".into(), source: "overlay".into(), options }
    }

    fn make(dirs: &[&str], files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for dir in dirs {
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        for file in files {
            std::fs::write(root.path().join(file), "x").unwrap();
        }
        root
    }

    #[test]
    fn a_directory_of_several_layers_is_an_overlay_of_its_parts() {
        let (top, middle, bottom) =
            (make(&["a/b"], &[]), make(&["other"], &[]), make(&["a/b"], &["a/b/f"]));
        let all = overlay(&[top.path(), middle.path(), bottom.path()]);
        let part = below(&all, "/a//b/").unwrap();
        let want = format!(
            "lowerdir={}:{}",
            top.path().join("a/b").display(),
            bottom.path().join("a/b").display()
        );
        assert_eq!((part.kind.as_str(), part.options), ("overlay", vec![want]));
        let file = below(&all, "a/b/f").unwrap();
        assert_eq!(file.kind, "bind");
        assert_eq!(file.source, bottom.path().join("a/b/f").display().to_string());
        let one = below(&all, "other").unwrap();
        assert_eq!(
            (one.kind.as_str(), one.source),
            ("bind", middle.path().join("other").display().to_string())
        );
    }

    #[test]
    fn what_is_hidden_or_leads_elsewhere_is_not_there() {
        let (top, bottom) = (make(&[], &["a"]), make(&["a/b"], &[]));
        std::os::unix::fs::symlink("/etc", top.path().join("link")).unwrap();
        let all = overlay(&[top.path(), bottom.path()]);
        for path in ["a/b", "link", "link/passwd", "none", "../x", "a/../a", "x\0"] {
            assert!(matches!(below(&all, path), Err(SnapshotError::NoSubpath { .. })), "{path:?}");
        }
        let other = MountEntry { kind: "erofs".into(), source: "x".into(), options: Vec::new() };
        assert!(matches!(below(&other, "a"), Err(SnapshotError::SubpathKind { .. })));
    }

    #[test]
    fn colons_in_paths_are_escaped_both_ways() {
        assert_eq!(split("/a\\:b:/c\\\\d"), [PathBuf::from("/a:b"), PathBuf::from("/c\\d")]);
        assert_eq!(escape(Path::new("/a:b")), "/a\\:b");
    }
}
