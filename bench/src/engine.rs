//! What a benchmark is told to measure, and how it ends.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// `NAME=SOCKET,PID`.
#[derive(Debug, Clone)]
pub struct Engine {
    pub name: String,
    pub socket: PathBuf,
    pub pid: u32,
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("NAME= is missing")?;
        let (socket, pid) = rest.rsplit_once(',').ok_or(",PID is missing")?;
        let pid = pid.parse().map_err(|e| format!("pid {pid:?}: {e}"))?;
        Ok(Self { name: name.to_owned(), socket: socket.into(), pid })
    }
}

/// A program's end: an error is told with all its causes.
pub fn told(program: &str, result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("{program}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  because: {cause}");
        source = cause.source();
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_named() {
        let engine: Engine = "pouch=/run/a,b.sock,12".parse().unwrap();
        assert_eq!((engine.name.as_str(), engine.pid), ("pouch", 12));
        assert_eq!(engine.socket, PathBuf::from("/run/a,b.sock"));
        for wrong in ["/run/sock,1", "a=/run/sock", "a=/run/sock,x"] {
            assert!(wrong.parse::<Engine>().is_err(), "{wrong}");
        }
    }
}
