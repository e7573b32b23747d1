//! `cp`: docker's rules of what lands where.
//!
//! A source that ends in `/.` stands for the content of the directory. A destination that exists
//! and is a directory takes the source under its own name; one that does not exist gives it a new
//! name, and its parent must exist; a trailing slash insists on a directory.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use pouch_client::PutArchive;
use pouch_docker_types::archive::mode;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::Outcome;
use crate::archive::{self, Owner, Rename};
use crate::context::Session;
use crate::failure::{Failure, plain};
use crate::flags::plain::CpFlags;
use crate::streams::copy_output;
use crate::{output, terminal, units};

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    /// A tar stream on stdin or stdout.
    Stream,
    Local(PathBuf),
    Container {
        name: String,
        path: String,
    },
}

impl Side {
    fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        // An absolute or dotted path is local whatever colons it has.
        if text.starts_with('/') || text.starts_with('.') {
            return Self::Local(text.into());
        }
        match text.split_once(':') {
            Some((name, path)) if !name.is_empty() => {
                Self::Container { name: name.to_owned(), path: path.to_owned() }
            }
            _ => Self::Local(text.into()),
        }
    }
}

/// `pouch cp`.
pub(crate) async fn cp(session: &Session, flags: CpFlags) -> Outcome {
    match (Side::parse(&flags.source), Side::parse(&flags.destination)) {
        (Side::Container { .. }, Side::Container { .. }) => {
            Err(Failure::new("copying between containers is not supported"))
        }
        (Side::Container { name, path }, to) => {
            from_container(session, &flags, &name, &path, to).await
        }
        (from, Side::Container { name, path }) => {
            to_container(session, &flags, from, &name, &path).await
        }
        _ => Err(Failure::new("must specify at least one container source")),
    }
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Nothing,
    Directory,
    File,
}

/// Where an archive goes, and how its top entry is called there.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    directory: String,
    rename_to: Option<String>,
}

/// The table of docker's rules, for a source with or without `/.`.
fn plan(source: At, destination: &str, at: At) -> Result<Plan, String> {
    match (at, source) {
        (At::Directory, _) => Ok(Plan { directory: destination.to_owned(), rename_to: None }),
        (At::File, At::Directory) => {
            Err(format!("cannot copy a directory to the file {destination}"))
        }
        (At::Nothing, At::File | At::Nothing) if asserts_directory(destination) => {
            Err(format!("no such directory: {destination}"))
        }
        _ => {
            let (parent, base) = split(destination);
            Ok(Plan { directory: parent, rename_to: Some(base) })
        }
    }
}

fn asserts_directory(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.") || path == "."
}

/// Parent and last component of a path, without a trailing slash.
fn split(path: &str) -> (String, String) {
    let trimmed = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some(("", base)) => ("/".to_owned(), base.to_owned()),
        Some((parent, base)) => (parent.to_owned(), base.to_owned()),
        None => (".".to_owned(), trimmed.to_owned()),
    }
}

async fn to_container(
    session: &Session,
    flags: &CpFlags,
    from: Side,
    container: &str,
    path: &str,
) -> Outcome {
    let client = &session.client;
    let (path, at) = resolve_remote(session, container, path).await?;
    let options = PutArchive { no_overwrite_dir_non_dir: true, copy_uid_gid: flags.archive };
    let source = match from {
        Side::Stream => {
            if at != At::Directory {
                return Err(Failure::new(format!(
                    "destination \"{container}:{path}\" must be a directory"
                )));
            }
            client.put_archive(container, &path, options, tokio::io::stdin()).await?;
            return Ok(0);
        }
        Side::Local(source) => source,
        Side::Container { .. } => {
            return Err(Failure::new("copying between containers is not supported"));
        }
    };
    let text = source.to_string_lossy().into_owned();
    let content_only = text == "." || text.ends_with("/.");
    let real = if flags.follow_link {
        std::fs::canonicalize(&source).map_err(|error| Failure::io("find", &source, &error))?
    } else {
        source.clone()
    };
    // With a trailing slash a link means what it points to.
    let meta = if text.ends_with('/') || content_only {
        std::fs::metadata(&real)
    } else {
        std::fs::symlink_metadata(&real)
    };
    let meta = meta.map_err(|error| Failure::new(format!("lstat {text}: {}", plain(&error))))?;
    if !meta.is_dir() && (text.ends_with('/') || content_only) {
        return Err(Failure::new(format!("{text} is not a directory")));
    }
    let kind = if meta.is_dir() { At::Directory } else { At::File };
    let plan = plan(kind, &path, at).map_err(Failure::new)?;
    let own_name = own_name(&source)?;
    let name = match (plan.rename_to, content_only) {
        (Some(name), _) => PathBuf::from(name),
        (None, true) => PathBuf::from("."),
        (None, false) => own_name,
    };
    let tar = reader(archive::pack(real, name));
    client.put_archive(container, &plan.directory, options, tar).await?;
    report(flags, None, &format!("{container}:{path}"));
    Ok(0)
}

fn own_name(path: &Path) -> Result<PathBuf, Failure> {
    if let Some(name) = path.file_name() {
        return Ok(name.into());
    }
    // `.`, `..` and `/` have no name of their own.
    let full = std::fs::canonicalize(path).map_err(|error| Failure::io("find", path, &error))?;
    Ok(full.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from))
}

fn reader(
    receiver: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>,
) -> impl AsyncRead + Send + 'static {
    let chunks = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    StreamReader::new(chunks.boxed())
}

/// The destination with a link at its end resolved in the container, and what is there.
async fn resolve_remote(
    session: &Session,
    container: &str,
    path: &str,
) -> Result<(String, At), Failure> {
    let mut path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let stat = match session.client.stat_path(container, &path).await {
        Ok(stat) if stat.mode & mode::SYMLINK != 0 => {
            path = if stat.link_target.starts_with('/') {
                stat.link_target
            } else {
                clean(&format!("{}/{}", split(&path).0, stat.link_target))
            };
            session.client.stat_path(container, &path).await
        }
        other => other,
    };
    match stat {
        Ok(stat) if stat.mode & mode::DIR != 0 => Ok((path, At::Directory)),
        Ok(_) => Ok((path, At::File)),
        // HEAD has no body, so a missing container looks like a missing path; the copy will tell.
        Err(error) if error.is_not_found() => Ok((path, At::Nothing)),
        Err(error) => Err(error.into()),
    }
}

fn clean(path: &str) -> String {
    let mut out = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out.to_string_lossy().into_owned()
}

async fn from_container(
    session: &Session,
    flags: &CpFlags,
    container: &str,
    path: &str,
    to: Side,
) -> Outcome {
    let client = &session.client;
    let mut source = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut shown_name = None;
    if flags.follow_link {
        let stat = client.stat_path(container, &source).await?;
        if stat.mode & mode::SYMLINK != 0 {
            shown_name = Some(split(&source).1);
            source = if stat.link_target.starts_with('/') {
                stat.link_target
            } else {
                clean(&format!("{}/{}", split(&source).0, stat.link_target))
            };
        }
    }
    let archive = client.get_archive(container, &source).await?;
    let destination = match to {
        Side::Stream => {
            copy_output(archive.body.into_reader(), pouch_client::Framing::Raw).await?;
            return Ok(0);
        }
        Side::Local(destination) => destination,
        Side::Container { .. } => {
            return Err(Failure::new("copying between containers is not supported"));
        }
    };
    let text = destination.to_string_lossy().into_owned();
    let at = match std::fs::metadata(&destination) {
        Ok(meta) if meta.is_dir() => At::Directory,
        Ok(_) => At::File,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => At::Nothing,
        Err(error) => return Err(Failure::io("look at", &destination, &error)),
    };
    let kind = if archive.stat.mode & mode::DIR != 0 { At::Directory } else { At::File };
    let plan = plan(kind, &text, at).map_err(Failure::new)?;
    let directory = PathBuf::from(&plan.directory);
    if !directory.is_dir() {
        return Err(Failure::new(format!(
            "invalid output path: directory {} does not exist",
            directory.display()
        )));
    }
    let top = if source.ends_with("/.") { ".".to_owned() } else { split(&source).1 };
    let rename = plan.rename_to.or(shown_name).map(|to| Rename {
        from: if top.is_empty() { "/".into() } else { top.into() },
        to: to.into(),
    });
    let owner = if flags.archive { Owner::Archive } else { Owner::Caller };
    let (sender, tar) = archive::channel();
    let unpacking = tokio::task::spawn_blocking(move || {
        archive::unpack(tar, &directory, rename.as_ref(), owner)
    });
    let mut body = archive.body;
    while let Some(chunk) = body.next().await {
        let failed = chunk.is_err();
        if sender.send(chunk.map_err(std::io::Error::other)).await.is_err() || failed {
            break;
        }
    }
    drop(sender);
    let bytes = unpacking
        .await
        .map_err(|error| Failure::new(format!("unpacking failed: {error}")))?
        .map_err(|error| Failure::io("write", &destination, &error))?;
    report(flags, Some(bytes), &text);
    Ok(0)
}

fn report(flags: &CpFlags, bytes: Option<u64>, destination: &str) {
    if flags.quiet || !terminal::stdout_is_terminal() {
        return;
    }
    match bytes {
        Some(bytes) => {
            let size = units::size(i64::try_from(bytes).unwrap_or(i64::MAX));
            output::note(&format!("Successfully copied {size} to {destination}"));
        }
        None => output::note(&format!("Successfully copied to {destination}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(Side::parse("-"), Side::Stream);
        assert_eq!(Side::parse("./a:b"), Side::Local("./a:b".into()));
        assert_eq!(Side::parse("/a:b"), Side::Local("/a:b".into()));
        assert_eq!(Side::parse("file"), Side::Local("file".into()));
        assert_eq!(
            Side::parse("c:/x:y"),
            Side::Container { name: "c".to_owned(), path: "/x:y".to_owned() }
        );
    }

    #[test]
    fn the_rules_of_landing() {
        let plan_of = |source, destination: &str, at| plan(source, destination, at);
        let into = |directory: &str| Plan { directory: directory.to_owned(), rename_to: None };
        let named = |directory: &str, name: &str| Plan {
            directory: directory.to_owned(),
            rename_to: Some(name.to_owned()),
        };
        assert_eq!(plan_of(At::File, "/d", At::Directory), Ok(into("/d")));
        assert_eq!(plan_of(At::Directory, "/d", At::Directory), Ok(into("/d")));
        assert_eq!(plan_of(At::File, "/d/f", At::File), Ok(named("/d", "f")));
        assert!(plan_of(At::Directory, "/d/f", At::File).is_err());
        assert_eq!(plan_of(At::Directory, "/d/new/", At::Nothing), Ok(named("/d", "new")));
        assert_eq!(plan_of(At::File, "new", At::Nothing), Ok(named(".", "new")));
        assert!(plan_of(At::File, "/d/new/", At::Nothing).is_err());
    }

    #[test]
    fn links_are_resolved_in_the_container() {
        assert_eq!(clean("/a/b/../../../etc/./x"), "/etc/x");
        assert_eq!(split("/x"), ("/".to_owned(), "x".to_owned()));
        assert_eq!(split("/a/b/."), ("/a".to_owned(), "b".to_owned()));
    }
}
