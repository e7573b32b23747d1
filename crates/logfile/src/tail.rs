//! Where the last `n` records of a file begin.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::{Driver, local};

const BLOCK: usize = 64 * 1024;

/// Offset at which the last `n` records before `end` begin, and how many there are (fewer than
/// `n` when the file is shorter).
pub(crate) fn find(file: &File, driver: Driver, end: u64, n: usize) -> io::Result<(u64, usize)> {
    match driver {
        Driver::JsonFile | Driver::Cri => lines(file, end, n),
        Driver::Local => frames(file, end, n),
    }
}

/// Counts newlines backwards, block by block.
fn lines(file: &File, end: u64, n: usize) -> io::Result<(u64, usize)> {
    if n == 0 {
        return Ok((end, 0));
    }
    let mut block = vec![0; BLOCK];
    let mut position = end;
    let mut newlines = 0;
    while position > 0 {
        let size = BLOCK.min(usize::try_from(position).unwrap_or(BLOCK));
        position -= size as u64;
        let block = &mut block[..size];
        file.read_exact_at(block, position)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            // The newline that ends the record before the n-th last one.
            if newlines == n {
                return Ok((position + index as u64 + 1, n));
            }
            newlines += 1;
        }
    }
    Ok((0, newlines))
}

/// Walks frames backwards by their second length.
fn frames(file: &File, end: u64, n: usize) -> io::Result<(u64, usize)> {
    let mut position = end;
    let mut found = 0;
    while found < n && position > 0 {
        let mut word = [0; 4];
        let Some(at) = position.checked_sub(4) else { break };
        file.read_exact_at(&mut word, at)?;
        let Some(start) = local::length(&word)
            .and_then(|length| position.checked_sub((length + local::FRAMING) as u64))
        else {
            break;
        };
        let mut first = [0; 4];
        file.read_exact_at(&mut first, start)?;
        if first != word {
            break;
        }
        position = start;
        found += 1;
    }
    Ok((position, found))
}
