//! Sparse files: where the stored bytes belong.

use std::io::Read;

use super::{BLOCK, TarError};
use crate::limits::SEGMENTS;

/// A run of stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Checks that the segments are in order, do not overlap, end within `size` and hold exactly
/// `stored` bytes.
pub(super) fn check(map: &[Segment], size: u64, stored: u64) -> Result<(), TarError> {
    let (mut end, mut total) = (0u64, 0u64);
    for segment in map {
        if segment.offset < end {
            return Err(TarError::Sparse);
        }
        end = segment.offset.checked_add(segment.length).ok_or(TarError::Sparse)?;
        total += segment.length;
    }
    if map.len() > SEGMENTS || end > size || total != stored {
        return Err(TarError::Sparse);
    }
    Ok(())
}

/// Segments from a flat list of offsets and lengths.
pub(super) fn from_pairs(pairs: &[u64]) -> Result<Vec<Segment>, TarError> {
    if !pairs.len().is_multiple_of(2) || pairs.len() / 2 > SEGMENTS {
        return Err(TarError::Sparse);
    }
    Ok(pairs.chunks_exact(2).map(|p| Segment { offset: p[0], length: p[1] }).collect())
}

/// The map of GNU's pax format 1.0: decimal lines at the begin of the file's data, padded to a
/// block. Returns it and the number of bytes that it took.
pub(super) fn read_map_1_0(data: &mut impl Read) -> Result<(Vec<Segment>, u64), TarError> {
    let mut lines = Lines { data, block: [0; BLOCK], at: BLOCK, taken: 0 };
    let count = usize::try_from(lines.number()?).map_err(|_| TarError::Sparse)?;
    if count > SEGMENTS {
        return Err(TarError::Sparse);
    }
    let mut map = Vec::new();
    for _ in 0..count {
        map.push(Segment { offset: lines.number()?, length: lines.number()? });
    }
    Ok((map, lines.taken))
}

struct Lines<'a, R> {
    data: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
    taken: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, TarError> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                self.data.read_exact(&mut self.block).map_err(|_| TarError::Truncated)?;
                self.at = 0;
                self.taken += BLOCK as u64;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return super::pax::decimal(&digits).map_err(|_| TarError::Sparse),
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => return Err(TarError::Sparse),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_fit() {
        let at = |offset, length| Segment { offset, length };
        assert!(check(&[at(0, 5), at(10, 5)], 20, 10).is_ok());
        assert!(check(&[at(0, 5), at(4, 5)], 20, 10).is_err(), "overlap");
        assert!(check(&[at(10, 5), at(0, 5)], 20, 10).is_err(), "order");
        assert!(check(&[at(18, 5)], 20, 5).is_err(), "beyond the end");
        assert!(check(&[at(u64::MAX, 5)], 20, 5).is_err(), "overflow");
        assert!(check(&[at(0, 5)], 20, 6).is_err(), "stored bytes");
    }
}
