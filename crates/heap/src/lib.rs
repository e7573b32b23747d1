//! Keeps the heap of a long-running process small.
//!
//! The C library gives each thread an arena of its own, eight for each processor, and an arena
//! keeps what it once needed. A daemon that works in bursts on short-lived threads would hold the
//! memory of its busiest moment for ever.

/// Arenas: the threads of a daemon seldom allocate at the same moment.
const ARENAS: libc::c_int = 2;

/// Bounds the number of arenas. To be called before the first thread is made.
pub fn bound_arenas() {
    // SAFETY: takes two numbers and changes settings of the allocator alone.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

/// Gives every free page back to the system. Walks the whole heap under its locks: some
/// milliseconds for tens of megabytes.
pub fn give_back() {
    // SAFETY: takes a number and touches only memory that the allocator holds as free.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    /// Resident pages of this process, in bytes.
    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn what_is_free_in_the_middle_goes_back() {
        super::bound_arenas();
        let mut blocks: Vec<Vec<u8>> = (0..4096).map(|_| vec![1; 8192]).collect();
        let full = resident();
        // One of each hundred stays, so that the heap's end cannot just be cut off.
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 100 == 0
        });
        super::give_back();
        let left = resident();
        assert!(left + (20 << 20) < full, "{left} of {full} bytes are still here");
        drop(blocks);
    }
}
