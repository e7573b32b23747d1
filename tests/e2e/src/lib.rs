//! Black-box tests of the programs, with the stock docker CLI, ours and bare HTTP; see `tests/`.
//!
//! Each test has a daemon of its own from `pouch-testkit`, and asserts by census that it leaves
//! nothing behind.
