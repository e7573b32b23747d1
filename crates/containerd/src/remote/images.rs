//! News of images in containerd: names that somebody made, moved or took away.
//!
//! They come with the one stream of events. What they mean is for who keeps the images; here each
//! name is remembered once, however often it changes, until somebody asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Names that are remembered; beyond that, all are to be looked at.
const MOST: usize = 1024;
/// Label of an Image object: the daemon that made it and, since labels go along when somebody copies
/// an object, its name.
const MARK: &str = "dev.pouch.image";

/// The label, key and value, that the daemon `owner` puts on its image `name`.
#[must_use]
pub fn image_mark(owner: &str, name: &str) -> (String, String) {
    (MARK.to_owned(), format!("{owner} {name}"))
}

/// What happened to a name last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// It was made or moved.
    Set,
    /// It was taken away.
    Gone,
}

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageNews {
    /// Everything: events may have been missed.
    All,
    /// These names.
    Names(BTreeMap<String, Naming>),
}

/// The news that nobody has asked for yet.
#[derive(Debug)]
pub struct ImageFeed {
    pending: Mutex<ImageNews>,
    wake: Notify,
}

impl Default for ImageFeed {
    /// Nothing is known at first, so all is news.
    fn default() -> Self {
        Self { pending: Mutex::new(ImageNews::All), wake: Notify::new() }
    }
}

impl ImageFeed {
    /// Waits for news. Cancel-safe: what is not returned stays.
    pub async fn next(&self) -> ImageNews {
        loop {
            let woken = self.wake.notified();
            {
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                if *pending != ImageNews::Names(BTreeMap::new()) {
                    return std::mem::replace(&mut pending, ImageNews::Names(BTreeMap::new()));
                }
            }
            woken.await;
        }
    }

    /// Events may have been missed, or what they said could not be followed.
    pub fn tell_all(&self) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = ImageNews::All;
        self.wake.notify_one();
    }

    pub(crate) fn tell(&self, name: String, naming: Naming) {
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if let ImageNews::Names(names) = &mut *pending {
                names.insert(name, naming);
                if names.len() > MOST {
                    *pending = ImageNews::All;
                }
            }
        }
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_at_first_then_each_name_once_and_all_when_there_are_too_many() {
        let feed = ImageFeed::default();
        assert_eq!(feed.next().await, ImageNews::All);
        feed.tell("a".to_owned(), Naming::Set);
        feed.tell("a".to_owned(), Naming::Gone);
        let names = BTreeMap::from([("a".to_owned(), Naming::Gone)]);
        assert_eq!(feed.next().await, ImageNews::Names(names));
        (0..=MOST).for_each(|n| feed.tell(n.to_string(), Naming::Set));
        assert_eq!(feed.next().await, ImageNews::All);
        let wait = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, feed.next()).await.is_err(), "there is no more");
    }
}
