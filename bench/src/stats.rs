//! Samples of one measure.

use serde::Serialize;

/// What a row's numbers are; decides how they are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Seconds,
    Bytes,
}

impl Unit {
    /// Three significant digits in the unit that suits.
    pub fn show(self, value: f64) -> String {
        let (value, unit) = match self {
            Self::Seconds if value >= 1.0 => (value, "s"),
            Self::Seconds => (value * 1e3, "ms"),
            Self::Bytes => (value / (1024.0 * 1024.0), "MiB"),
        };
        let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        format!("{value:.digits$} {unit}")
    }
}

/// The middle sample, or the mean of the two in the middle; none of no samples.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted.get(middle.checked_sub(1)?)? + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn units() {
        assert_eq!(Unit::Seconds.show(0.0029), "2.90 ms");
        assert_eq!(Unit::Seconds.show(0.0452), "45.2 ms");
        assert_eq!(Unit::Seconds.show(0.1899), "190 ms");
        assert_eq!(Unit::Seconds.show(4.9), "4.90 s");
        assert_eq!(Unit::Bytes.show(3.5 * 1024.0 * 1024.0), "3.50 MiB");
    }
}
