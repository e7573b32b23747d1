//! Work that tells how far it is: pull and load.
//!
//! What fails before there is anything to tell is an ordinary error reply, on which clients act
//! (a missing image is 404). Once the stream has begun, a failure is its last message.

use axum::response::Response;
use futures::future::BoxFuture;
use futures::stream::{self, Stream};
use pouch_docker_types::progress::ProgressMessage;
use pouch_image::{Event, ImageError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::http::{ApiError, ApiResult};
use crate::stream::ndjson::{self, Ending};
use crate::translate::image;

/// The work and its news.
struct Work {
    task: Option<BoxFuture<'static, Result<(), ImageError>>>,
    news: mpsc::Receiver<Event>,
    /// How the work ended, until its last news are told.
    failure: Option<ImageError>,
}

impl Work {
    /// The next piece of news; `None` at the end. Cancel-safe: both branches are.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let Some(task) = &mut self.task else { return self.news.recv().await };
            tokio::select! {
                biased;
                event = self.news.recv() => match event {
                    Some(event) => return Some(event),
                    // The sender is gone with the work, whose result is at hand.
                    None => self.failure = task.await.err(),
                },
                ended = &mut *task => self.failure = ended.err(),
            }
            self.task = None;
        }
    }
}

/// Replies with the news of `task`, of which `tell` says which are sent. The work ends with its
/// client.
pub(super) async fn respond(
    task: BoxFuture<'static, Result<(), ImageError>>,
    news: mpsc::Receiver<Event>,
    tell: fn(&Event) -> bool,
    closing: CancellationToken,
) -> ApiResult<Response> {
    let mut work = Work { task: Some(task), news, failure: None };
    let first = loop {
        match work.next().await {
            Some(event) if tell(&event) => break Some(event),
            Some(_) => {}
            None => break None,
        }
    };
    // With news to tell, the failure is the last of them: it must not be taken here.
    if first.is_none()
        && let Some(error) = work.failure.take()
    {
        return Err(error.into());
    }
    Ok(ndjson::respond(messages(first, work, tell), Ending::CarriageReturn, closing))
}

fn messages(
    first: Option<Event>,
    work: Work,
    tell: fn(&Event) -> bool,
) -> impl Stream<Item = ProgressMessage> + Send {
    stream::unfold((first, work), move |(first, mut work)| async move {
        if let Some(event) = first {
            return Some((image::progress(event), (None, work)));
        }
        loop {
            match work.next().await {
                Some(event) if tell(&event) => {
                    return Some((image::progress(event), (None, work)));
                }
                Some(_) => {}
                None => {
                    let error = ApiError::from(work.failure.take()?);
                    return Some((ProgressMessage::failed(error.message()), (None, work)));
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(events: Vec<Event>, result: Result<(), ImageError>) -> ApiResult<String> {
        run_in(1, events, result).await
    }

    /// With room for so many events before the work has to wait.
    async fn run_in(
        room: usize,
        events: Vec<Event>,
        result: Result<(), ImageError>,
    ) -> ApiResult<String> {
        let (sender, news) = mpsc::channel(room);
        let task = Box::pin(async move {
            for event in events {
                sender.send(event).await.unwrap();
            }
            drop(sender);
            result
        });
        let response = respond(task, news, |_| true, CancellationToken::new()).await?;
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_failure_before_the_first_news_is_a_reply() {
        let error = run(vec![], Err(ImageError::NotFound("x".into()))).await.unwrap_err();
        assert_eq!(error.status(), http::StatusCode::NOT_FOUND);
        assert_eq!(error.message(), "No such image: x");
    }

    #[tokio::test]
    async fn a_failure_at_once_after_the_first_news_is_told() {
        // The work ends in its first step: the news are read when it is over.
        let events = vec![Event::Status("a".into())];
        let text = run_in(8, events, Err(ImageError::Worker)).await.unwrap();
        assert!(text.starts_with("{\"status\":\"a\"}\r\n"), "{text}");
        assert!(text.contains(r#""errorDetail":{"message":"a worker"#), "{text}");
    }

    #[tokio::test]
    async fn a_failure_after_it_is_the_last_message() {
        let events = vec![Event::Status("a".into()), Event::Status("b".into())];
        let text = run(events.clone(), Err(ImageError::Worker)).await.unwrap();
        let lines: Vec<_> = text.split_terminator("\r\n").collect();
        assert_eq!(lines[..2], [r#"{"status":"a"}"#, r#"{"status":"b"}"#]);
        assert!(lines[2].contains(r#""errorDetail":{"message":"a worker"#), "{}", lines[2]);
        assert!(lines[2].contains(r#""error":"a worker"#));
        assert_eq!(run(events, Ok(())).await.unwrap().matches("\r\n").count(), 2);
        assert_eq!(run(vec![], Ok(())).await.unwrap(), "");
    }
}
