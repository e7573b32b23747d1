//! Requests that wait for their client.
//!
//! A token is the only credential there is, so it is random, short-lived and gone with its first
//! use, whatever comes of that.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pouch_types::{Classified, ErrorKind};
use tokio::time::Instant;

use crate::request::Work;

/// Random bytes of a token.
const RANDOM: usize = 18;
/// Longer ones were not given out.
pub(crate) const LENGTH: usize = RANDOM / 3 * 4;

/// A request that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// As many wait for their clients as may.
    #[error("maximum number of in-flight requests exceeded ({0})")]
    TooMany(usize),
    /// The server was closed.
    #[error("the streaming server is closed")]
    Closed,
    /// The kernel gave no random bytes.
    #[error("making a token")]
    Random(#[source] getrandom::Error),
}

impl Classified for IssueError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TooMany(_) => ErrorKind::ResourceExhausted,
            Self::Closed => ErrorKind::Unavailable,
            Self::Random(_) => ErrorKind::Internal,
        }
    }
}

#[derive(Debug)]
struct Waiting {
    work: Work,
    until: Instant,
}

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<String, Waiting>,
    /// By age; holds tokens that were used, too.
    order: VecDeque<(Instant, String)>,
}

/// The tokens that were given out.
#[derive(Debug)]
pub(crate) struct Tokens {
    table: Mutex<Table>,
    life: Duration,
    most: usize,
}

impl Tokens {
    pub(crate) fn new(life: Duration, most: usize) -> Self {
        Self { table: Mutex::default(), life, most }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn issue(&self, work: Work, now: Instant) -> Result<String, IssueError> {
        let mut random = [0; RANDOM];
        getrandom::fill(&mut random).map_err(IssueError::Random)?;
        let token = URL_SAFE_NO_PAD.encode(random);
        self.expire(now);
        let mut table = self.table();
        if table.waiting.len() >= self.most {
            return Err(IssueError::TooMany(self.most));
        }
        let until = now + self.life;
        table.order.push_back((until, token.clone()));
        table.waiting.insert(token.clone(), Waiting { work, until });
        Ok(token)
    }

    /// The work of a token that was given out, not used and not too old.
    pub(crate) fn take(&self, token: &str, now: Instant) -> Option<Work> {
        let waiting = self.table().waiting.remove(token)?;
        (now < waiting.until).then_some(waiting.work)
    }

    /// Drops what is too old, and what it holds.
    pub(crate) fn expire(&self, now: Instant) {
        let mut old = Vec::new();
        let mut table = self.table();
        while let Some((until, _)) = table.order.front()
            && *until <= now
        {
            if let Some((_, token)) = table.order.pop_front() {
                old.extend(table.waiting.remove(&token));
            }
        }
        // Used ones at the front need not wait for their time.
        while let Some((_, token)) = table.order.front()
            && !table.waiting.contains_key(token)
        {
            table.order.pop_front();
        }
        drop(table);
        // What a request holds is dropped without the lock.
        drop(old);
    }

    pub(crate) fn clear(&self) {
        let table = std::mem::take(&mut *self.table());
        drop(table);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::request::{Duplex, Request};

    fn work(held: &Arc<()>) -> Work {
        let held = Arc::clone(held);
        Request::port_forward(vec![], move |_| {
            let _ = &held;
            async { Err::<Box<dyn Duplex>, _>("unused".into()) }
        })
        .0
    }

    const LIFE: Duration = Duration::from_secs(60);

    #[test]
    fn a_token_works_once_and_not_for_long() {
        let (tokens, held, now) = (Tokens::new(LIFE, 1000), Arc::new(()), Instant::now());
        let token = tokens.issue(work(&held), now).unwrap();
        assert_eq!(token.len(), LENGTH);
        assert!(tokens.take("AAAA", now).is_none());
        assert!(tokens.take(&token, now + LIFE - Duration::from_nanos(1)).is_some());
        assert!(tokens.take(&token, now).is_none());
        let token = tokens.issue(work(&held), now).unwrap();
        assert!(tokens.take(&token, now + LIFE).is_none());
        assert_ne!(token, tokens.issue(work(&held), now).unwrap());
    }

    #[test]
    fn the_number_is_bounded_and_old_ones_give_way() {
        let (tokens, held, now) = (Tokens::new(LIFE, 3), Arc::new(()), Instant::now());
        let first = tokens.issue(work(&held), now).unwrap();
        for _ in 0..2 {
            tokens.issue(work(&held), now).unwrap();
        }
        let refused = tokens.issue(work(&held), now).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
        drop(tokens.take(&first, now));
        tokens.issue(work(&held), now).unwrap();
        assert!(tokens.issue(work(&held), now).is_err());
        tokens.expire(now + LIFE);
        assert_eq!(Arc::strong_count(&held), 1, "an expired request is dropped");
        assert!(tokens.table().order.is_empty());
        tokens.issue(work(&held), now + LIFE).unwrap();
    }

    #[test]
    fn used_tokens_leave_no_trace() {
        let (tokens, held, now) = (Tokens::new(LIFE, 3), Arc::new(()), Instant::now());
        for _ in 0..1000 {
            let token = tokens.issue(work(&held), now).unwrap();
            assert!(tokens.take(&token, now).is_some());
        }
        assert!(tokens.table().order.len() <= 1);
    }
}
