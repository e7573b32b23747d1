//! `docker run`: output, exit codes, standard input, identity.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use pouch_testkit::daemon;

#[test]
fn output_and_exit_code_of_the_command_arrive() {
    daemon(|d| {
        let run = d.docker(&["run", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        run.exits(7);
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("out\n", "err\n"));
    });
}
