//! Getting images in and out, and naming them.

use std::path::Path;

use pouch_client::{Commit, CreateImage, Progress, RemoveImage};
use tokio::io::AsyncRead;

use super::{Outcome, confirmed, filters, platform, split_reference};
use crate::context::Session;
use crate::create::trusted;
use crate::failure::{Failure, describe};
use crate::flags::plain::{
    ImagePruneFlags, ImportFlags, LoadFlags, PullFlags, PushFlags, RmiFlags, SaveFlags, TagFlags,
};
use crate::flags::registry::CommitFlags;
use crate::progress::{self, Look, Stream};
use crate::{credentials, output, settings, streams, terminal, units};

/// A stream that can be the body of a request.
type Source = Box<dyn AsyncRead + Send + Unpin>;

async fn open(path: Option<&Path>) -> Result<Source, Failure> {
    match path {
        Some(path) => {
            let file = tokio::fs::File::open(path)
                .await
                .map_err(|error| Failure::io("open", path, &error))?;
            Ok(Box::new(file))
        }
        None if terminal::stdin_is_terminal() => {
            Err(Failure::new("stdin is a terminal: name a file with -i, or pipe an archive in"))
        }
        None => Ok(Box::new(tokio::io::stdin())),
    }
}

/// `pouch pull`.
pub(crate) async fn pull(session: &Session, flags: PullFlags) -> Outcome {
    trusted(flags.disable_content_trust)?;
    let (name, tag) = split_reference(&flags.image);
    let named = flags.image.len() > name.len();
    if flags.all_tags && named {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let look = Look::from_flag(&flags.progress.progress, flags.quiet);
    if !flags.all_tags && !named && look.is_talkative() {
        output::line(&format!("Using default tag: {tag}"))?;
    }
    let auth = credentials::lookup(&session.config, &flags.image).await?;
    let platform =
        flags.platform.or_else(|| settings::variable("DEFAULT_PLATFORM")).unwrap_or_default();
    let create = CreateImage {
        from_image: name.clone(),
        tag: if flags.all_tags { String::new() } else { tag.clone() },
        platform,
        ..CreateImage::default()
    };
    let messages = session.client.pull_image(&create, auth.as_ref()).await?;
    progress::show(messages, look, Stream::Stdout).await?;
    if look != Look::Json {
        output::line(&full_name(&name, if flags.all_tags { "" } else { &tag }))?;
    }
    Ok(0)
}

/// The full name with the tag or digest, if any, as a pull ends with it.
fn full_name(name: &str, tag: &str) -> String {
    let separator = match tag {
        "" => "",
        digest if digest.contains(':') => "@",
        _ => ":",
    };
    format!("{}{separator}{tag}", familiar(name))
}

/// The full name, as a pull ends with it.
fn familiar(name: &str) -> String {
    let first = name.split('/').next().unwrap_or(name);
    if !name.contains('/') {
        format!("docker.io/library/{name}")
    } else if first.contains(['.', ':']) || first == "localhost" {
        name.to_owned()
    } else {
        format!("docker.io/{name}")
    }
}

/// `pouch push`.
pub(crate) async fn push(session: &Session, flags: PushFlags) -> Outcome {
    trusted(flags.disable_content_trust)?;
    let platform = platform::one(session, &flags.platform, 46).await?;
    let (name, tag) = split_reference(&flags.image);
    let named = flags.image.len() > name.len();
    if flags.all_tags && named {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let look = Look::from_flag(&flags.progress.progress, flags.quiet);
    if !flags.all_tags && !named && look.is_talkative() {
        output::line(&format!("Using default tag: {tag}"))?;
    }
    let auth = credentials::lookup(&session.config, &flags.image).await?.unwrap_or_default();
    let tag = if flags.all_tags { String::new() } else { tag };
    let messages = session.client.push_image(&name, &tag, platform.as_ref(), &auth).await?;
    progress::show(messages, look, Stream::Stdout).await?;
    if look == Look::Silent {
        output::line(&full_name(&name, &tag))?;
    }
    Ok(0)
}

/// `pouch commit`.
pub(crate) async fn commit(session: &Session, flags: CommitFlags) -> Outcome {
    let (repository, tag) = match &flags.repository {
        None => (String::new(), String::new()),
        Some(reference) => split_reference(reference),
    };
    let commit = Commit {
        container: flags.container,
        repository,
        tag,
        author: flags.author,
        message: flags.message,
        changes: flags.change,
        running: flags.pause == Some(false),
    };
    output::line(&session.client.commit(&commit).await?)?;
    Ok(0)
}

/// `pouch load`.
pub(crate) async fn load(session: &Session, flags: LoadFlags) -> Outcome {
    let platform = platform::one(session, &flags.platform, 48).await?;
    let source = open(flags.input.as_deref()).await?;
    let look = Look::from_flag(&flags.progress.progress, Default::default());
    let quiet = match look {
        // Nobody watches.
        Look::Auto => flags.quiet || !terminal::stdout_is_terminal(),
        Look::Silent => true,
        Look::Plain | Look::Bars | Look::Json => flags.quiet,
    };
    let progress = if quiet { Progress::Quiet } else { Progress::Reported };
    let messages = session.client.load_images(source, progress, platform.as_ref()).await?;
    // What was loaded is told in any case.
    let look = if look == Look::Silent { Look::Plain } else { look };
    progress::show(messages, look, Stream::Stdout).await?;
    Ok(0)
}

/// `pouch save`.
pub(crate) async fn save(session: &Session, flags: SaveFlags) -> Outcome {
    let platform = platform::one(session, &flags.platform, 48).await?;
    if flags.output.is_none() && terminal::stdout_is_terminal() {
        return Err(Failure::new("cowardly refusing to save to a terminal: use -o, or redirect"));
    }
    let body = session.client.save_images(&flags.images, platform.as_ref()).await?;
    streams::save(body, flags.output.as_deref()).await?;
    Ok(0)
}

/// `pouch import`.
pub(crate) async fn import(session: &Session, flags: ImportFlags) -> Outcome {
    let remote = flags.source.starts_with("http://") || flags.source.starts_with("https://");
    let (repository, tag) = match &flags.repository {
        None => (String::new(), String::new()),
        Some(reference) => {
            let (name, tag) = split_reference(reference);
            // Without a tag the daemon chooses it.
            let tag = if reference.len() > name.len() { tag } else { String::new() };
            (name, tag)
        }
    };
    let create = CreateImage {
        from_source: if remote { flags.source.clone() } else { "-".to_owned() },
        repository,
        tag,
        message: flags.message,
        changes: flags.change,
        platform: flags.platform.unwrap_or_default(),
        ..CreateImage::default()
    };
    let source: Source = match flags.source.as_str() {
        _ if remote => Box::new(tokio::io::empty()),
        "-" => open(None).await?,
        path => open(Some(path.as_ref())).await?,
    };
    let messages = session.client.import_image(&create, source).await?;
    progress::show(messages, Look::Auto, Stream::Stdout).await?;
    Ok(0)
}

/// `pouch tag`.
pub(crate) async fn tag(session: &Session, flags: TagFlags) -> Outcome {
    if flags.target.contains('@') {
        return Err(Failure::new("refusing to create a tag with a digest reference"));
    }
    let (repository, tag) = split_reference(&flags.target);
    session.client.tag_image(&flags.source, &repository, &tag).await?;
    Ok(0)
}

/// `pouch rmi`.
pub(crate) async fn rmi(session: &Session, flags: RmiFlags) -> Outcome {
    let platforms = platform::all(session, &flags.platform, 50).await?;
    let remove = RemoveImage { force: flags.force, no_prune: flags.no_prune, platforms };
    let mut failed = Vec::new();
    // One after the other: several names of one image depend on each other.
    for name in &flags.images {
        match session.client.remove_image(name, &remove).await {
            Ok(steps) => {
                for step in steps {
                    output::line(&describe_step(&step.untagged, &step.deleted))?;
                }
            }
            Err(error) if flags.force && error.is_not_found() => {
                output::note(&describe(&error));
            }
            Err(error) => failed.push(describe(&error)),
        }
    }
    if failed.is_empty() { Ok(0) } else { Err(Failure::new(failed.join("\n"))) }
}

fn describe_step(untagged: &str, deleted: &str) -> String {
    if deleted.is_empty() { format!("Untagged: {untagged}") } else { format!("Deleted: {deleted}") }
}

/// `pouch image prune`.
pub(crate) async fn prune(session: &Session, flags: ImagePruneFlags) -> Outcome {
    let mut filters = filters(&flags.prune.filter)?;
    filters.add("dangling", if flags.all { "false" } else { "true" });
    let warning = if flags.all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !flags.prune.force && !confirmed(warning)? {
        return Ok(0);
    }
    let pruned = session.client.prune_images(&filters).await?;
    let steps = pruned.images_deleted.unwrap_or_default();
    if !steps.is_empty() {
        output::line("Deleted Images:")?;
        for step in steps {
            let line = if step.deleted.is_empty() {
                format!("untagged: {}", step.untagged)
            } else {
                format!("deleted: {}", step.deleted)
            };
            output::line(&line)?;
        }
        output::line("")?;
    }
    let bytes = i64::try_from(pruned.space_reclaimed).unwrap_or(i64::MAX);
    output::line(&format!("Total reclaimed space: {}", units::size4(bytes)))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names() {
        assert_eq!(familiar("busybox"), "docker.io/library/busybox");
        assert_eq!(familiar("me/x"), "docker.io/me/x");
        assert_eq!(familiar("r.example/x"), "r.example/x");
        assert_eq!(full_name("x", "1"), "docker.io/library/x:1");
        assert_eq!(full_name("a/x", "sha256:1"), "docker.io/a/x@sha256:1");
        assert_eq!(full_name("box:1/x", ""), "box:1/x");
    }
}
