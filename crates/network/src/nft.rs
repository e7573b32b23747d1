//! [`Ruleset`] by the program `nft`: one process per change, some milliseconds each, fed a batch on
//! its standard input that the kernel takes as a whole or not at all.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::ruleset::{
    Base, Form, Forward, Ruleset, RulesetError, USER_CHAIN, render_elements, render_install,
};

/// A change may have to wait for another program's; beyond this something is wrong.
const DEADLINE: Duration = Duration::from_secs(15);
const MAX_ANSWER: u64 = 4 * 1024 * 1024;
const MAX_MESSAGE: u64 = 2048;
const PLACES: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];

/// Makes the changes of `batch`, in nft's language, all or none. Nothing is run for an empty one.
///
/// # Errors
/// [`RulesetError`].
pub async fn apply(batch: String) -> Result<(), RulesetError> {
    if batch.is_empty() {
        return Ok(());
    }
    run(&["-f", "-"], &batch).await.map(drop)
}

/// The rules of one table, through `nft`.
#[derive(Debug)]
pub(crate) struct Nft {
    table: String,
}

impl Nft {
    pub(crate) const fn new(table: String) -> Self {
        Self { table }
    }

    async fn list(&self, what: &[&str]) -> Result<Vec<serde_json::Value>, RulesetError> {
        let mut arguments = vec!["-j", "list"];
        arguments.extend(what);
        let answer = run(&arguments, "").await?;
        let listing: Listing = serde_json::from_slice(&answer).map_err(RulesetError::Answer)?;
        Ok(listing.nftables)
    }

    async fn exists(&self) -> Result<Existence, RulesetError> {
        let tables = self.list(&["tables", "inet"]).await?;
        let ours = |item: &serde_json::Value| {
            item.get("table").and_then(|t| t.get("name")).is_some_and(|n| *n == self.table)
        };
        Ok(if tables.iter().any(ours) { Existence::Present } else { Existence::Absent })
    }
}

#[derive(serde::Deserialize)]
struct Listing {
    nftables: Vec<serde_json::Value>,
}

#[derive(PartialEq, Eq)]
enum Existence {
    Present,
    Absent,
}

fn program() -> Result<PathBuf, RulesetError> {
    PLACES
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
        .map(Path::to_owned)
        .ok_or(RulesetError::Missing)
}

/// Whether the program is there.
#[must_use]
pub fn is_installed() -> bool {
    program().is_ok()
}

async fn run(arguments: &[&str], input: &str) -> Result<Vec<u8>, RulesetError> {
    let program = program()?;
    let failed = |source| RulesetError::Run { program: program.display().to_string(), source };
    let work = async {
        let mut child = Command::new(&program)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut answer, mut message) = (Vec::new(), Vec::new());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A refusal may come before all was read; the exit status tells.
                drop(stdin.write_all(input.as_bytes()).await);
            }
        };
        let read = async {
            if let Some(stdout) = stdout {
                stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
            }
            Ok(())
        };
        let complain = async {
            if let Some(stderr) = stderr {
                stderr.take(MAX_MESSAGE).read_to_end(&mut message).await?;
            }
            Ok(())
        };
        let ((), read, complained) = tokio::join!(write, read, complain);
        read.and(complained).map_err(failed)?;
        let status = child.wait().await.map_err(failed)?;
        if status.success() {
            Ok(answer)
        } else {
            let message = String::from_utf8_lossy(&message).trim().to_owned();
            Err(RulesetError::Refused { message })
        }
    };
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(RulesetError::Deadline(DEADLINE)))
}

#[async_trait]
impl Ruleset for Nft {
    async fn install(&self, base: &Base, published: &[Forward]) -> Result<(), RulesetError> {
        apply(render_install(&self.table, base, published)).await
    }

    async fn publish(&self, added: &[Forward]) -> Result<(), RulesetError> {
        apply(render_elements("add", &self.table, added, Form::Full)).await
    }

    async fn withdraw(&self, removed: &[Forward]) -> Result<(), RulesetError> {
        apply(render_elements("delete", &self.table, removed, Form::Key)).await
    }

    async fn remove(&self) -> Result<(), RulesetError> {
        if self.exists().await? == Existence::Absent {
            return Ok(());
        }
        let table = &self.table;
        let items = self.list(&["table", "inet", table]).await?;
        let names = |kind: &str| -> Vec<String> {
            items
                .iter()
                .filter_map(|item| item.get(kind)?.get("name")?.as_str().map(str::to_owned))
                .collect()
        };
        let user_rules = items.iter().any(|item| {
            item.get("rule").and_then(|r| r.get("chain")).is_some_and(|c| *c == USER_CHAIN)
        });
        if !user_rules {
            return apply(format!("delete table inet {table}\n")).await;
        }
        // The administrator's rules are not ours to delete.
        let ours: Vec<_> = names("chain").into_iter().filter(|c| c != USER_CHAIN).collect();
        let mut batch = String::new();
        for chain in &ours {
            batch.push_str(&format!("flush chain inet {table} {chain}\n"));
        }
        for chain in &ours {
            batch.push_str(&format!("delete chain inet {table} {chain}\n"));
        }
        for map in names("map") {
            batch.push_str(&format!("delete map inet {table} {map}\n"));
        }
        apply(batch).await
    }
}
