//! Flags of the commands that have to do with registries and with making images.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct LoginFlags {
    /// Password or Personal Access Token (PAT)
    #[arg(short, long, value_name = "PASSWORD")]
    pub(crate) password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Username
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// The registry; Docker Hub when none is named
    #[arg(value_name = "SERVER")]
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutFlags {
    /// The registry; Docker Hub when none is named
    #[arg(value_name = "SERVER")]
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CommitFlags {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// Commit message
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) message: String,
    /// Pause container during commit (default true)
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    pub(crate) pause: Option<bool>,
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) repository: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SearchFlags {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Format output using a custom template: 'table', 'json' or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Max number of search results
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub(crate) limit: Option<i64>,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// A word, or HOST/WORD for another registry than Docker Hub
    #[arg(value_name = "TERM")]
    pub(crate) term: String,
}
