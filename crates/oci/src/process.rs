//! The first process: its arguments, variables and directory.

use pouch_types::spec::{ContainerSpec, ProcessSpec};

use crate::error::SpecError;
use crate::image::{DEFAULT_PATH, name_of};
use crate::mount::check_path;

/// Bytes of one argument or variable: MAX_ARG_STRLEN of the kernel less its NUL.
const MAX_STRING: usize = 131_071;
/// Arguments or variables.
const MAX_STRINGS: usize = 65_536;

/// Program and arguments: the entrypoint, then the command.
///
/// # Errors
/// When both are empty, or one cannot be passed to execve(2).
pub fn command(process: &ProcessSpec) -> Result<Vec<String>, SpecError> {
    const FIELD: &str = "Config.Cmd";
    let entrypoint = process.entrypoint.as_deref().unwrap_or_default();
    let cmd = process.cmd.as_deref().unwrap_or_default();
    let args: Vec<String> = entrypoint.iter().chain(cmd).cloned().collect();
    if args.first().is_none_or(String::is_empty) {
        return Err(SpecError::invalid(FIELD, "no command specified"));
    }
    check_strings(FIELD, &args)?;
    Ok(args)
}

/// Variables: the engine's own, replaced, completed or removed by `spec`'s. `extra` are further
/// ones of the engine (links).
///
/// # Errors
/// When one is no `NAME=value`, cannot be passed to execve(2), or is a `HOME` or `USER` with bytes
/// that end a line or a field of a passwd file: programs write these two into such files.
pub fn environment(
    spec: &ContainerSpec,
    hostname: &str,
    extra: &[String],
    home: &str,
) -> Result<Vec<String>, SpecError> {
    let mut own = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if spec.process.tty {
        own.push("TERM=xterm".to_owned());
    }
    own.extend_from_slice(extra);
    let mut variables = overlay(own, &spec.process.env)?;
    if !variables.iter().any(|variable| name_of(variable) == "HOME") {
        variables.push(format!("HOME={home}"));
    }
    check_variables(&variables)?;
    Ok(variables)
}

/// `base` with the values of `over`; a bare name removes.
pub(crate) fn overlay(base: Vec<String>, over: &[String]) -> Result<Vec<String>, SpecError> {
    if over.len() > MAX_STRINGS {
        return Err(SpecError::invalid("Config.Env", "too many variables"));
    }
    let mut variables: Vec<Option<String>> = base.into_iter().map(Some).collect();
    let mut index: std::collections::HashMap<String, usize> = variables
        .iter()
        .enumerate()
        .filter_map(|(at, variable)| Some((name_of(variable.as_deref()?).to_owned(), at)))
        .collect();
    for variable in over {
        let name = name_of(variable);
        let value = variable.contains('=').then(|| variable.clone());
        if let Some(slot) = index.get(name).and_then(|at| variables.get_mut(*at)) {
            *slot = value;
        } else if value.is_some() {
            index.insert(name.to_owned(), variables.len());
            variables.push(value);
        }
    }
    Ok(variables.into_iter().flatten().collect())
}

pub(crate) fn check_variables(variables: &[String]) -> Result<(), SpecError> {
    const FIELD: &str = "Config.Env";
    check_strings(FIELD, variables)?;
    for variable in variables {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if name.is_empty() {
            return Err(SpecError::invalid(FIELD, "a variable without a name"));
        }
        if matches!(name, "HOME" | "USER") && value.contains(['\n', '\r', ':']) {
            return Err(SpecError::invalid(
                FIELD,
                format!("{name} must not contain a line break or a colon"),
            ));
        }
    }
    Ok(())
}

pub(crate) fn check_strings(field: &'static str, strings: &[String]) -> Result<(), SpecError> {
    if strings.len() > MAX_STRINGS {
        return Err(SpecError::invalid(field, format!("more than {MAX_STRINGS} strings")));
    }
    for string in strings {
        if string.len() > MAX_STRING {
            return Err(SpecError::invalid(field, format!("a string of over {MAX_STRING} bytes")));
        }
        if string.contains('\0') {
            return Err(SpecError::invalid(field, "a NUL byte"));
        }
    }
    Ok(())
}

/// The working directory; `/` when none is given.
pub(crate) fn directory(path: &str) -> Result<String, SpecError> {
    if path.is_empty() {
        return Ok("/".to_owned());
    }
    check_path("Config.WorkingDir", path)?;
    Ok(path.to_owned())
}

/// A host or domain name: at most the kernel's 64 bytes, and nothing that ends a line or a field
/// of `/etc/hosts`.
pub(crate) fn check_name(field: &'static str, name: &str) -> Result<(), SpecError> {
    const MAX: usize = 64;
    if name.len() > MAX {
        return Err(SpecError::invalid(
            field,
            format!("{name:?} is too long (maximum {MAX} bytes)"),
        ));
    }
    if name.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/' | '#'))
    {
        return Err(SpecError::invalid(field, format!("{name:?} is no host name")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn commands() {
        let with = |entrypoint: &[&str], cmd: &[&str]| {
            command(&ProcessSpec {
                entrypoint: Some(words(entrypoint)),
                cmd: Some(words(cmd)),
                ..ProcessSpec::default()
            })
        };
        assert_eq!(with(&["/e", "a"], &["b"]).unwrap(), ["/e", "a", "b"]);
        assert_eq!(with(&[], &["b", ""]).unwrap(), ["b", ""]);
        for refused in [with(&[], &[]), with(&[""], &["x"]), with(&["a\0"], &[])] {
            assert!(refused.is_err());
        }
        assert!(with(&["x"], &["y".repeat(MAX_STRING + 1).as_str()]).is_err());
    }

    #[test]
    fn variables() {
        let mut spec = ContainerSpec::default();
        spec.process.env = words(&["PATH=/bin", "A=1", "A=2", "HOSTNAME", "GONE", "EMPTY="]);
        assert_eq!(
            environment(&spec, "box", &words(&["LINK=x"]), "/root").unwrap(),
            ["PATH=/bin", "LINK=x", "A=2", "EMPTY=", "HOME=/root"]
        );
        spec.process.tty = true;
        spec.process.env = words(&["HOME=/h"]);
        assert_eq!(
            environment(&spec, "box", &[], "/root").unwrap(),
            [&format!("PATH={DEFAULT_PATH}"), "HOSTNAME=box", "TERM=xterm", "HOME=/h"]
        );
    }

    #[test]
    fn variables_that_become_lines() {
        let mut spec = ContainerSpec::default();
        for bad in ["HOME=/a\nb", "HOME=/a:b", "USER=a\rb", "=x", "A=\0"] {
            spec.process.env = words(&[bad]);
            assert!(environment(&spec, "h", &[], "/").is_err(), "{bad:?}");
        }
        spec.process.env = words(&["CERT=-----BEGIN\nabc\n", "A=b=c"]);
        assert!(environment(&spec, "h", &[], "/").is_ok());
    }

    #[test]
    fn names() {
        for bad in ["a b", "a\nb", "a:b", "a#b", &"x".repeat(65)] {
            assert!(check_name("Config.Hostname", bad).is_err(), "{bad:?}");
        }
        check_name("Config.Hostname", "web-1.example.org").unwrap();
    }
}
