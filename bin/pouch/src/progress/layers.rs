//! What is known of an image's layers on their way, and how it looks in so many columns.
//!
//! Pure: time and size of the terminal come from outside.

use std::collections::HashMap;
use std::time::Instant;

use pouch_docker_types::progress::ProgressMessage;

use super::clean;
use super::rate::{Rate, spell};
use crate::units;

/// Layers at most; more have no line of their own.
const LAYERS: usize = 512;
/// Columns of a bar, at least and at most.
const BAR: (usize, usize) = (8, 40);
/// The longest usual status, `Verifying Checksum`: beside a wide bar they line up.
const STATUS: usize = 18;

/// Bytes done and bytes in all; 0 when that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    current: u64,
    total: u64,
}

/// The amount that a message tells.
pub(super) fn amount(message: &ProgressMessage) -> Option<Amount> {
    let detail = message.progress_detail.as_ref()?;
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    let amount = Amount { current: count(detail.current), total: count(detail.total) };
    (amount.current > 0 || amount.total > 0).then_some(amount)
}

/// One layer.
#[derive(Debug)]
struct Layer {
    id: String,
    status: String,
    /// Of what `status` says.
    amount: Option<Amount>,
    rate: Rate,
    /// Over the network (or, of a load, into the daemon).
    moved: Option<Moved>,
}

/// Bytes over the network.
#[derive(Debug, Clone, Copy)]
struct Moved {
    /// What was there from an earlier attempt.
    before: u64,
    amount: Amount,
}

/// All layers of an image, in the order in which they were told.
#[derive(Debug)]
pub(super) struct Layers {
    begun: Instant,
    layers: Vec<Layer>,
    by_id: HashMap<String, usize>,
    rate: Rate,
}

impl Layer {
    fn update(&mut self, message: &ProgressMessage, now: Instant) {
        let status = clean(&message.status);
        let amount = amount(message);
        if status != self.status {
            self.rate = Rate::default();
        }
        if let Some(amount) = amount {
            self.rate.observe(amount.current, now);
        }
        match (status.as_str(), amount) {
            ("Downloading" | "Pushing" | "Loading layer", Some(amount)) => {
                let before = self.moved.map_or(amount.current, |moved| moved.before);
                self.moved = Some(Moved { before: before.min(amount.current), amount });
            }
            ("Verifying Checksum" | "Download complete" | "Pull complete" | "Pushed", _) => {
                if let Some(moved) = &mut self.moved {
                    moved.amount.current = moved.amount.current.max(moved.amount.total);
                }
            }
            _ => {}
        }
        self.status = status;
        self.amount = amount;
    }

    /// Nothing more will happen to it.
    fn is_over(&self) -> bool {
        matches!(
            self.status.as_str(),
            "Pull complete" | "Already exists" | "Pushed" | "Layer already exists"
        ) || self.status.starts_with("Mounted from")
            || (self.status == "Loading layer"
                && self.amount.is_some_and(|amount| amount.current >= amount.total))
    }

    /// Nothing has happened to it yet.
    fn is_waiting(&self) -> bool {
        matches!(self.status.as_str(), "Pulling fs layer" | "Waiting" | "Preparing")
    }

    fn line(&self, columns: usize, now: Instant) -> String {
        let head = format!("{}: {}", self.id, self.status);
        let amount = self.amount.filter(|_| !self.is_over());
        let Some(amount) = amount else { return cut(&head, columns) };
        let padded = format!("{}: {:<STATUS$}", self.id, self.status);
        beside([&padded, &head], amount, self.rate.per_second(now), columns)
    }
}

impl Layers {
    pub(super) fn new(begun: Instant) -> Self {
        Self { begun, layers: Vec::new(), by_id: HashMap::new(), rate: Rate::default() }
    }

    /// Takes a message of a layer in.
    pub(super) fn update(&mut self, message: &ProgressMessage, now: Instant) {
        let at = match self.by_id.get(&message.id) {
            Some(at) => *at,
            None if self.layers.len() >= LAYERS => return,
            None => {
                self.by_id.insert(message.id.clone(), self.layers.len());
                self.layers.push(Layer {
                    id: clean(&message.id),
                    status: String::new(),
                    amount: None,
                    rate: Rate::default(),
                    moved: None,
                });
                self.layers.len() - 1
            }
        };
        self.layers[at].update(message, now);
        self.rate.observe(self.fresh(), now);
    }

    /// There are layers, and all have come to their end.
    pub(super) fn are_over(&self) -> bool {
        !self.layers.is_empty() && self.layers.iter().all(Layer::is_over)
    }

    /// Bytes that came over the network since the beginning.
    fn fresh(&self) -> u64 {
        let moved = self.layers.iter().filter_map(|layer| layer.moved);
        moved.map(|moved| moved.amount.current.saturating_sub(moved.before)).sum()
    }

    /// The picture for a terminal of that size: the layers and a line for all of them. No line is
    /// wider than the terminal, and there are never more than fit.
    pub(super) fn frame(&self, rows: usize, columns: usize, now: Instant) -> Vec<String> {
        if self.layers.is_empty() {
            return Vec::new();
        }
        // The last column is left free: some terminals begin a new line after it. The last row is
        // the cursor's.
        let columns = columns.saturating_sub(1).max(1);
        let room = rows.saturating_sub(2).max(1);
        let mut shown: Vec<&Layer> = self.layers.iter().collect();
        // What is over goes first, then what has not begun; the rest is cut.
        for boring in [Layer::is_over, Layer::is_waiting] {
            let mut excess = shown.len().saturating_sub(room);
            shown.retain(|layer| {
                let goes = excess > 0 && boring(layer);
                excess -= usize::from(goes);
                !goes
            });
        }
        shown.truncate(room);
        let mut lines: Vec<String> = shown.iter().map(|layer| layer.line(columns, now)).collect();
        lines.push(self.overall(columns, now));
        lines
    }

    /// The line for all layers.
    fn overall(&self, columns: usize, now: Instant) -> String {
        let over = self.layers.iter().filter(|layer| layer.is_over()).count();
        let all = self.layers.len();
        let head = format!("Total: {over} of {all} layers");
        let short = format!("Total {over}/{all}");
        let moved = || self.layers.iter().filter_map(|layer| layer.moved);
        if moved().next().is_none() {
            return cut(&head, columns);
        }
        let current = moved().map(|moved| moved.amount.current).sum();
        // As long as a layer has not begun, its size is not known.
        let known = self.layers.iter().all(|layer| !layer.is_waiting())
            && moved().all(|moved| moved.amount.total > 0);
        let total = if known { moved().map(|moved| moved.amount.total).sum() } else { 0 };
        let rate = self.rate.per_second(now);
        beside([&head, &short], Amount { current, total }, rate, columns)
    }

    /// The layers as they are at the end, and what it took.
    pub(super) fn last_words(&self, columns: usize, now: Instant) -> Vec<String> {
        let columns = columns.saturating_sub(1).max(1);
        let mut lines: Vec<String> =
            self.layers.iter().map(|layer| layer.line(columns, now)).collect();
        let (fresh, time) = (self.fresh(), now.saturating_duration_since(self.begun));
        if fresh > 0 && self.are_over() {
            let rate = u128::from(fresh) * 1000 / time.as_millis().max(1);
            let rate = u64::try_from(rate).unwrap_or(u64::MAX);
            let seconds = time.as_secs_f64();
            let text = format!("Total: {} in {seconds:.1}s, {}/s", bytes(fresh), bytes(rate));
            lines.push(cut(&text, columns));
        }
        lines
    }
}

/// As much as fits of a head, a bar, the amount, the speed and the time left. The second head is the
/// shorter one.
fn beside(heads: [&str; 2], amount: Amount, rate: Option<u64>, columns: usize) -> String {
    let Amount { current, total } = amount;
    let speed = rate.map(|rate| format!("{}/s", bytes(rate)));
    let left = rate.filter(|rate| *rate > 0 && total > current);
    let left = left.map(|rate| spell((total - current).div_ceil(rate)));
    let left = left.map(|left| format!("{left} left"));
    if total == 0 {
        let all = [Some(bytes(current)), speed];
        return fitting(heads, &[&all, &all[..1]], columns);
    }
    let counts = Some(format!("{}/{}", bytes(current), bytes(total)));
    let percent = Some(format!("{}%", u128::from(current.min(total)) * 100 / u128::from(total)));
    let words = [counts.clone(), speed.clone(), left.clone()];
    let tail: String = words.iter().flatten().map(|word| format!(" {word}")).collect();
    // A space before the bar and its two ends.
    let used = heads[0].chars().count() + tail.chars().count() + 3;
    if columns >= used + BAR.0 {
        let width = (columns - used).min(BAR.1);
        let done = u128::from(current.min(total)) * width as u128 / u128::from(total);
        let done = usize::try_from(done).unwrap_or(width);
        let tip = if done < width { ">" } else { "" };
        let bar = format!("{}{tip}", "=".repeat(done));
        return format!("{} [{bar:<width$}]{tail}", heads[0]);
    }
    let choices: [&[Option<String>]; 4] =
        [&words, &[percent.clone(), speed, left.clone()], &[percent.clone(), left], &[percent]];
    fitting(heads, &choices, columns)
}

/// The first of the choices that fits behind one of the heads.
fn fitting(heads: [&str; 2], choices: &[&[Option<String>]], columns: usize) -> String {
    for words in choices {
        let tail: String = words.iter().flatten().map(|word| format!(" {word}")).collect();
        let lines = heads.map(|head| format!("{head}{tail}"));
        if let Some(line) = lines.into_iter().find(|line| line.chars().count() <= columns) {
            return line;
        }
    }
    cut(heads[1], columns)
}

fn cut(text: &str, columns: usize) -> String {
    text.chars().take(columns).collect()
}

fn bytes(count: u64) -> String {
    units::size(i64::try_from(count).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn message(id: &str, status: &str, current: i64, total: i64) -> ProgressMessage {
        let text = format!(
            r#"{{"id":"{id}","status":"{status}","progressDetail":{{"current":{current},"total":{total}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// A layer that was resumed at 40 of 100 MB and is at 60 after two seconds; one that is there;
    /// one that waits.
    fn underway() -> (Layers, Instant) {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut layers = Layers::new(begun);
        for id in ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"] {
            layers.update(&message(id, "Pulling fs layer", 0, 0), at(0));
        }
        layers.update(&message("bbbbbbbbbbbb", "Already exists", 0, 0), at(0));
        for step in 0..=20 {
            let current = 40_000_000 + step * 1_000_000;
            let news = message("aaaaaaaaaaaa", "Downloading", current, 100_000_000);
            layers.update(&news, at(u64::try_from(step).unwrap() * 100));
        }
        (layers, at(2000))
    }

    #[test]
    fn sizes_speed_and_time_left() {
        let (mut layers, now) = underway();
        assert_eq!(
            layers.frame(24, 100, now),
            [
                "aaaaaaaaaaaa: Downloading        [======================>               ] 60MB/100MB 10MB/s 4s left",
                "bbbbbbbbbbbb: Already exists",
                "cccccccccccc: Pulling fs layer",
                "Total: 1 of 3 layers 60MB 10MB/s",
            ]
        );
        layers.update(&message("cccccccccccc", "Downloading", 1, 20_000_000), now);
        let overall = layers.frame(24, 100, now).pop().unwrap();
        assert!(overall.ends_with("60MB/120MB 10MB/s 6s left"), "{overall}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let (layers, now) = underway();
        for columns in 1..200 {
            for line in layers.frame(24, columns, now) {
                assert!(line.chars().count() < columns.max(2), "{columns}: {line:?}");
            }
        }
        let narrow = &layers.frame(24, 40, now)[0];
        assert_eq!(narrow, "aaaaaaaaaaaa: Downloading 60% 4s left");
    }

    #[test]
    fn what_moves_is_shown_when_not_all_fits() {
        let (layers, now) = underway();
        let frame = layers.frame(4, 80, now);
        assert_eq!(frame.len(), 3, "{frame:?}");
        assert!(frame[0].starts_with("aaaaaaaaaaaa") && frame[1].starts_with("cccccccccccc"));
        let frame = layers.frame(3, 80, now);
        assert!(frame[0].starts_with("aaaaaaaaaaaa") && frame[1].starts_with("Total"));
    }

    #[test]
    fn the_end_is_told_without_what_was_there_before() {
        let (mut layers, now) = underway();
        layers.update(&message("cccccccccccc", "Already exists", 0, 0), now);
        assert!(!layers.are_over());
        layers.update(&message("aaaaaaaaaaaa", "Pull complete", 0, 0), now);
        assert!(layers.are_over());
        let words = layers.last_words(80, now);
        assert_eq!(words[0], "aaaaaaaaaaaa: Pull complete");
        assert_eq!(words[3], "Total: 60MB in 2.0s, 30MB/s");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let now = Instant::now();
        let mut layers = Layers::new(now);
        layers.update(&message("\\u001b[2Jx", "a\\nb", 0, 0), now);
        assert_eq!(layers.frame(24, 80, now)[0], "[2Jx: ab");
    }
}
