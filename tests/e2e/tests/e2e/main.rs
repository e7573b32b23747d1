//! The programs as users run them: the stock docker CLI, ours, and bare HTTP against real daemons.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod archives;
mod attach;
mod bad_images;
mod bad_input;
mod cdi;
mod cli;
mod cli_images;
mod cli_login;
mod copy;
mod crash;
mod disk_full;
mod events;
mod exec;
mod failpoints;
mod hardening;
mod health;
mod images;
mod inspect;
mod lifecycle;
mod limits;
mod logs;
mod mirrors;
mod network;
mod never_hangs;
mod options;
mod pods;
mod pods_again;
mod pods_bad_input;
mod pods_crash;
mod pods_failpoints;
mod pods_store;
mod policy;
mod programs;
mod pull_faults;
mod restart_policy;
mod run;
mod sdk;
mod security;
mod serving;
mod stuck_volume;
mod volumes;
