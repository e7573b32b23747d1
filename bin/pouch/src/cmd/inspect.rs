//! `inspect` and its forms per kind.

use bytes::Bytes;
use pouch_client::{ClientError, SizeInfo};
use pouch_docker_types::image::OciPlatform;

use super::{Outcome, platform};
use crate::context::Session;
use crate::failure::{Failure, describe};
use crate::flags::plain::{
    InspectContainerFlags, InspectFlags, InspectImageFlags, InspectNetworkFlags, InspectOne,
};
use crate::template::{Mode, Template, Value};
use crate::{json_text, output};

/// What can be inspected, in the order in which a bare name is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Container, Self::Image, Self::Network, Self::Volume];

    fn from_flag(flag: &str) -> Option<Self> {
        match flag {
            "container" => Some(Self::Container),
            "image" => Some(Self::Image),
            "network" => Some(Self::Network),
            "volume" => Some(Self::Volume),
            _ => None,
        }
    }

    async fn fetch(
        self,
        session: &Session,
        name: &str,
        details: &Details,
    ) -> Result<Bytes, ClientError> {
        let client = &session.client;
        match self {
            Self::Container => client.inspect_container_raw(name, details.size).await,
            Self::Image => client.inspect_image_raw(name, details.platform.as_ref()).await,
            Self::Network => client.inspect_network_raw(name).await,
            Self::Volume => client.inspect_volume_raw(name).await,
        }
    }
}

/// What is asked for beside the object itself.
struct Details {
    /// Of a container.
    size: SizeInfo,
    /// Of an image.
    platform: Option<OciPlatform>,
}

impl Details {
    const NONE: Self = Self { size: SizeInfo::Without, platform: None };

    const fn sized(flag: bool) -> Self {
        let size = if flag { SizeInfo::With } else { SizeInfo::Without };
        Self { size, ..Self::NONE }
    }
}

/// `pouch inspect`.
pub(crate) async fn any(session: &Session, flags: InspectFlags) -> Outcome {
    let kinds = match flags.kind.as_deref().and_then(Kind::from_flag) {
        Some(kind) => vec![kind],
        None => Kind::ALL.to_vec(),
    };
    let details = Details::sized(flags.size);
    show(session, &kinds, &flags.names, flags.format.as_deref(), &details).await
}

/// `pouch container inspect`.
pub(crate) async fn container(session: &Session, flags: InspectContainerFlags) -> Outcome {
    let InspectOne { names, format } = flags.inspect;
    let details = Details::sized(flags.size);
    show(session, &[Kind::Container], &names, format.as_deref(), &details).await
}

/// `pouch image inspect`.
pub(crate) async fn image(session: &Session, flags: InspectImageFlags) -> Outcome {
    let platform = platform::one(session, &flags.platform, 49).await?;
    let InspectOne { names, format } = flags.inspect;
    let details = Details { platform, ..Details::NONE };
    show(session, &[Kind::Image], &names, format.as_deref(), &details).await
}

/// `pouch network inspect`. What `--verbose` adds is of swarm networks, which there are none of.
pub(crate) async fn network(session: &Session, flags: InspectNetworkFlags) -> Outcome {
    one(session, Kind::Network, flags.inspect).await
}

/// `pouch volume inspect`.
pub(crate) async fn volume(session: &Session, flags: InspectOne) -> Outcome {
    one(session, Kind::Volume, flags).await
}

async fn one(session: &Session, kind: Kind, flags: InspectOne) -> Outcome {
    show(session, &[kind], &flags.names, flags.format.as_deref(), &Details::NONE).await
}

async fn show(
    session: &Session,
    kinds: &[Kind],
    names: &[String],
    format: Option<&str>,
    details: &Details,
) -> Outcome {
    let template = match format {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let mut found = Vec::new();
    let mut failed = Vec::new();
    for name in names {
        match lookup(session, kinds, name, details).await {
            Ok(bytes) => found.push(bytes),
            Err(message) => failed.push(message),
        }
    }
    match template {
        None => {
            let texts: Vec<String> = found
                .iter()
                .map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned())
                .collect();
            if format == Some("json") {
                output::line(&format!("[{}]", texts.join(",")))?;
            } else {
                output::print(&json_text::indent_array(&texts))?;
            }
        }
        Some(template) => {
            for bytes in &found {
                let value = Value::from_json(bytes)
                    .map_err(|error| Failure::new(format!("the daemon sent no JSON: {error}")))?;
                output::line(&template.render(&value, Mode::Data)?)?;
            }
            // Docker ends with an empty line here when nothing was found.
            if found.is_empty() {
                output::line("")?;
            }
        }
    }
    if failed.is_empty() { Ok(0) } else { Err(Failure::new(failed.join("\n"))) }
}

async fn lookup(
    session: &Session,
    kinds: &[Kind],
    name: &str,
    details: &Details,
) -> Result<Bytes, String> {
    for kind in kinds {
        match kind.fetch(session, name, details).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.is_not_found() && kinds.len() > 1 => {}
            Err(error) => return Err(describe(&error)),
        }
    }
    Err(format!("Error: No such object: {name}"))
}
