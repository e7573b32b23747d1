//! The image service.

use std::pin::Pin;
use std::time::SystemTime;

use futures::Stream;
use pouch_cri_grpc as cri;
use pouch_cri_grpc::image_service_server::ImageService;
use pouch_engine::ImageNews;
use pouch_image::{Image, ListFilter, Owner, Progress, PullRequest};
use pouch_registry::Wanted;
use pouch_types::{Classified as _, ErrorKind, ImageRef};
use tonic::{Request, Response, Status};

use crate::api::Api;
use crate::error::{invalid, status};
use crate::runtime::{Answer, pieces};
use crate::translate::image as translate;

/// A list in pieces.
type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    fn images(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Status> {
        let wanted = filter.and_then(|f| f.image).map(|spec| spec.image);
        match wanted.filter(|name| !name.is_empty()) {
            Some(name) => Ok(self.known_image(&name)?.iter().map(|i| translate::item(i)).collect()),
            None => {
                let all = self.engine.images().list(&ListFilter::default()).map_err(status)?;
                Ok(all.iter().map(|image| translate::item(image)).collect())
            }
        }
    }

    /// The image of a name or id; `None` when it is not here.
    fn known_image(&self, name: &str) -> Result<Option<std::sync::Arc<Image>>, Status> {
        match self.engine.images().resolve(name) {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(status(error)),
        }
    }
}

fn name_of(spec: Option<cri::ImageSpec>) -> Result<String, Status> {
    match spec.map(|spec| spec.image) {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(invalid("image.image", "is empty")),
    }
}

#[tonic::async_trait]
impl ImageService for Api {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Answer<cri::ListImagesResponse> {
        let images = self.images(request.into_inner().filter)?;
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    type StreamImagesStream = Pieces<cri::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let images = self.images(request.into_inner().filter)?;
        Ok(pieces(images, |images| cri::StreamImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let asked = request.into_inner();
        let image = self.known_image(&name_of(asked.image)?)?;
        let mut info = std::collections::HashMap::new();
        if let Some(image) = image.as_ref().filter(|_| asked.verbose) {
            let chain: Vec<_> = image.chain_ids().iter().map(ToString::to_string).collect();
            let raw = self.engine.images().raw_config(&image.id).await.map_err(status)?;
            let config: serde_json::Value = serde_json::from_slice(&raw).unwrap_or_default();
            let text = serde_json::json!({
                "chainID": chain.last(), "imageSpec": config,
            });
            info.insert("info".to_owned(), text.to_string());
        }
        let image = image.map(|image| translate::item(&image));
        Ok(Response::new(cri::ImageStatusResponse { image, info }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Answer<cri::PullImageResponse> {
        let asked = request.into_inner();
        let name = name_of(asked.image)?;
        let reference: ImageRef = name.parse().map_err(status)?;
        let request = PullRequest {
            reference: reference.clone(),
            credentials: translate::credentials(asked.auth)?,
            platform: Wanted::Host,
            owner: Owner::Cri,
        };
        // Dropped with its call: what was fetched stays for the next attempt.
        let nobody = Progress::none();
        let image = self.engine.images().pull(request, &nobody).await.map_err(status)?;
        self.engine.announce_image(ImageNews::Pulled(&reference, &image));
        Ok(Response::new(cri::PullImageResponse { image_ref: image.id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        if let Some(image) = self.known_image(&name_of(request.into_inner().image)?)? {
            self.engine.disown_image(&image.id).await.map_err(status)?;
        }
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _request: Request<cri::ImageFsInfoRequest>,
    ) -> Answer<cri::ImageFsInfoResponse> {
        let usage = self.engine.images().usage();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let at = self.engine.config().data_root.to_string_lossy().into_owned();
        let filesystem = |used: u64, inodes: Option<u64>| cri::FilesystemUsage {
            timestamp,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: at.clone() }),
            used_bytes: Some(cri::UInt64Value { value: used }),
            inodes_used: inodes.map(|value| cri::UInt64Value { value }),
        };
        let containers = self.sampler.written(&self.engine);
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![filesystem(usage.layers + usage.blobs, None)],
            container_filesystems: vec![filesystem(containers.bytes, Some(containers.inodes))],
        }))
    }
}
