//! `pouch-unpack`: everything that reads foreign archives or walks foreign trees, in a process
//! that can do nothing else.
//!
//! Each verb opens its roots first (a path of the host or a magic link such as
//! `/proc/<pid>/fd/<n>`, given by the engine), then confines itself (see [`sandbox`]), then reads
//! the archive. Single-threaded, no program is run, decoders are part of the program.
//!
//! | verb | standard input | standard output |
//! | --- | --- | --- |
//! | `layer --root DIR [--max-bytes N] [--max-entries N] [--sync] [--blob-verified]` | blob | report, JSON |
//! | `put --root DIR --path P [--chown U:G] [--no-overwrite-dir-non-dir] [--max-bytes N] [--max-entries N]` | archive | report, JSON |
//! | `get --root DIR --path P` | | tar |
//! | `stat --root DIR --path P` | | path stat, JSON |
//! | `tree --from DIR --path P --to DIR` | | report, JSON |
//! | `diff --upper DIR` | | tar, OCI layer |
//! | `export --root DIR` | | tar |
//!
//! A failure is one line of JSON on standard error,
//! `{"error":{"kind":"not_found","message":"…"}}`, and exit code 1. Digests are reported, not
//! judged: the caller knows what it wanted.

#![deny(unsafe_code)]

mod args;
mod extract;
mod failure;
mod layer;
mod limits;
mod pack;
mod put;
mod sandbox;
mod stat;
mod stream;
mod tar;
mod tree;

use std::io::Write;
use std::process::ExitCode;

use pouch_rootfd::RootFd;
use rustix::fs::Mode;
use serde::Serialize;

use args::{Sync, Verb};
use failure::{Failure, Result};
use sandbox::TrustedXattrs;

fn main() -> ExitCode {
    match args::parse(std::env::args_os().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let line = failure::to_json(&failure);
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "{line}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    sandbox::close_inherited()?;
    // Modes of archives are exact.
    rustix::process::umask(Mode::empty());
    match verb {
        Verb::Layer { root, limits, sync, hashing } => {
            let root = RootFd::open(root)?;
            let real = open_directory(&root)?;
            sandbox::enter(&[&root], TrustedXattrs::Needed)?;
            let report = layer::apply(&root, limits, hashing)?;
            if sync == Sync::Yes {
                rustix::fs::syncfs(&real)
                    .map_err(|e| Failure::Io { what: "syncfs", source: e.into() })?;
            }
            print(&report)
        }
        Verb::Put { root, path, ownership, replace, limits } => {
            let root = RootFd::open(root)?;
            sandbox::enter(&[&root], TrustedXattrs::Unused)?;
            print(&put::extract(&root, &path, ownership, replace, limits)?)
        }
        Verb::Get { root, path } => {
            let root = RootFd::open(root)?;
            sandbox::enter(&[&root], TrustedXattrs::Unused)?;
            pack::get(&root, &path)
        }
        Verb::Stat { root, path } => {
            let root = RootFd::open(root)?;
            sandbox::enter(&[&root], TrustedXattrs::Unused)?;
            print(&stat::stat(&root, &path)?)
        }
        Verb::Tree { from, path, to } => {
            let (from, to) = (RootFd::open(from)?, RootFd::open(to)?);
            sandbox::enter(&[&from, &to], TrustedXattrs::Unused)?;
            print(&tree::copy(&from, &path, &to)?)
        }
        Verb::Diff { upper } => {
            let upper = RootFd::open(upper)?;
            sandbox::enter(&[&upper], TrustedXattrs::Needed)?;
            pack::diff(&upper)
        }
        Verb::Export { root } => {
            let root = RootFd::open(root)?;
            sandbox::enter(&[&root], TrustedXattrs::Unused)?;
            pack::export(&root)
        }
    }
}

/// `syncfs(2)` does not take an `O_PATH` descriptor.
fn open_directory(root: &RootFd) -> Result<rustix::fd::OwnedFd> {
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::openat(root, ".", flags, Mode::empty())
        .map_err(|e| Failure::Io { what: "open root", source: e.into() })
}

fn print(report: &impl Serialize) -> Result<()> {
    let write = |source| Failure::Io { what: "write report", source };
    let mut line = serde_json::to_vec(report).map_err(|e| write(e.into()))?;
    line.push(b'\n');
    let mut out = std::io::stdout();
    out.write_all(&line).and_then(|()| out.flush()).map_err(write)
}
