//! How fast bytes come, by the last seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is looked back on.
const WINDOW: Duration = Duration::from_secs(5);
/// Between two samples that are kept.
const SAMPLE: Duration = Duration::from_millis(100);
/// Less than this says nothing.
const SHORTEST: Duration = Duration::from_millis(300);

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// Takes note that `bytes` have come in all.
    pub(super) fn observe(&mut self, bytes: u64, now: Instant) {
        let last = self.0.len().checked_sub(2).map(|at| self.0[at].0);
        match self.0.back_mut() {
            Some(newest) if last.is_some_and(|last| now - last < SAMPLE) => *newest = (now, bytes),
            _ => self.0.push_back((now, bytes)),
        }
        // One sample from before the window is where the window begins.
        while self.0.len() > 2 && now - self.0[1].0 > WINDOW {
            self.0.pop_front();
        }
    }

    /// Bytes per second; `None` before that can be told.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a speed to be shown"
    )]
    pub(super) fn per_second(&self, now: Instant) -> Option<u64> {
        let ((begun, first), (_, last)) = (self.0.front()?, self.0.back()?);
        let time = now.saturating_duration_since(*begun);
        let bytes = last.saturating_sub(*first);
        (time >= SHORTEST).then(|| (bytes as f64 / time.as_secs_f64()) as u64)
    }
}

/// Seconds as people say them, in two parts.
pub(super) fn spell(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (minutes, hours, days) {
        (0, ..) => format!("{seconds}s"),
        (_, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (.., 0) => format!("{hours}h{:02}m", minutes % 60),
        (.., 1..100) => format!("{days}d{:02}h", hours % 24),
        _ => ">99d".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_seconds_count() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut rate = Rate::default();
        rate.observe(1 << 30, at(0));
        assert_eq!(rate.per_second(at(100)), None);
        for step in 1..=100 {
            rate.observe((1 << 30) + step * 1000, at(step * 10));
        }
        // What was there before the first look is none of it.
        assert_eq!(rate.per_second(at(1000)), Some(100_000));
        for step in 1..=100 {
            rate.observe((1 << 30) + 100_000 + step * 10_000, at(1000 + step * 100));
        }
        let late = rate.per_second(at(11_000)).unwrap();
        assert!((95_000..=105_000).contains(&late), "{late}");
        // Silence makes it slower.
        assert!(rate.per_second(at(20_000)).unwrap() < 40_000);
        assert!(rate.0.len() < 60, "{}", rate.0.len());
    }

    #[test]
    fn durations() {
        let cases =
            [(6, "6s"), (65, "1m05s"), (3700, "1h01m"), (90_000, "1d01h"), (1 << 40, ">99d")];
        for (seconds, text) in cases {
            assert_eq!(spell(seconds), text);
        }
    }
}
