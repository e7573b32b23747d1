//! Lists of CPUs and memory nodes, `0-3,7`, as cpuset(7) writes them.
//!
//! Kept as ranges and never expanded, so that `0-4294967295` costs nothing.

use std::fmt;
use std::ops::RangeInclusive;

/// CPUs or memory nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NumberList {
    /// Ascending, neither overlapping nor touching.
    ranges: Vec<RangeInclusive<u32>>,
}

/// Why a text is no such list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberListError {
    /// Not numbers, commas and dashes.
    #[error("not a list of numbers and ranges")]
    Syntax,
    /// A number beyond every kernel's CPUs.
    #[error("a number is larger than {}", NumberList::MAX)]
    TooLarge,
    /// More parts than anybody needs.
    #[error("more than {} ranges", NumberList::MAX_RANGES)]
    TooMany,
}

impl NumberList {
    /// Largest number: the kernel's largest NR_CPUS less one.
    pub const MAX: u32 = 8191;
    /// Largest count of ranges in a text.
    pub const MAX_RANGES: usize = 4096;

    /// Reads a list. The empty text is the empty list.
    ///
    /// # Errors
    /// See [`NumberListError`].
    pub fn parse(text: &str) -> Result<Self, NumberListError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut ranges = Vec::new();
        for part in text.split(',') {
            if ranges.len() >= Self::MAX_RANGES {
                return Err(NumberListError::TooMany);
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(NumberListError::Syntax);
            }
            ranges.push(first..=last);
        }
        ranges.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u32>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *range.start() <= *last.end() + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Ok(Self { ranges: merged })
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|range| (range.end() - range.start()) as usize + 1).sum()
    }

    /// Whether every number of `other` is in it.
    #[must_use]
    pub fn contains_all(&self, other: &Self) -> bool {
        other.ranges.iter().all(|wanted| {
            self.ranges.iter().any(|own| own.start() <= wanted.start() && wanted.end() <= own.end())
        })
    }
}

impl fmt::Display for NumberList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            if range.start() == range.end() {
                write!(f, "{}", range.start())?;
            } else {
                write!(f, "{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<u32, NumberListError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NumberListError::Syntax);
    }
    text.parse().ok().filter(|number| *number <= NumberList::MAX).ok_or(NumberListError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let list = NumberList::parse("7,0-2,3,9-10\n").unwrap();
        assert_eq!(list.to_string(), "0-3,7,9-10");
        assert_eq!(list.len(), 7);
        assert!(list.contains_all(&NumberList::parse("1-3,7").unwrap()));
        assert!(!list.contains_all(&NumberList::parse("3-4").unwrap()));
        assert!(NumberList::parse("").unwrap().is_empty());
    }

    #[test]
    fn nonsense() {
        for text in ["a", "1-", "-1", "1--2", "1,,2", "3-1", "+1", "1 2", "０"] {
            assert_eq!(NumberList::parse(text), Err(NumberListError::Syntax), "{text}");
        }
        for text in ["0-4294967295", "8192", "99999999999999999999"] {
            assert_eq!(NumberList::parse(text), Err(NumberListError::TooLarge), "{text}");
        }
        let long = vec!["1"; NumberList::MAX_RANGES + 1].join(",");
        assert_eq!(NumberList::parse(&long), Err(NumberListError::TooMany));
    }
}
