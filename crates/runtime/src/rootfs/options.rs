//! The options of a mount, in the words of `mount(8)` and the OCI runtime specification 1.2
//! (config.md, "Linux mount options").

use crate::error::RuntimeError;
use crate::mounts::{
    ATIME, Attributes, Depth, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY,
    RELATIME, STRICTATIME,
};

/// What a list of options asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// A bind mount, and of how much.
    pub(crate) bind: Option<Depth>,
    /// Of the mount itself.
    pub(super) own: Attributes,
    /// Of the mount and of all below it.
    pub(super) recursive: Attributes,
    /// The ids of its files are mapped, and how far below.
    pub(crate) idmap: Option<Depth>,
    /// Changes of propagation, in order.
    pub(super) propagation: Vec<(u64, Depth)>,
    /// For the file system.
    pub(super) parameters: Vec<String>,
}

/// The meaning of a word.
#[derive(Clone, Copy)]
enum Word {
    Nothing,
    Set(u64),
    Unset(u64),
    Atime(u64),
    Bind(Depth),
    Map(Depth),
    Propagation(u64, Depth),
    /// A flag of the file system that is spelt the same there.
    Parameter,
    Unsupported,
}

impl Options {
    /// Later words override earlier ones.
    pub(crate) fn parse(words: &[String]) -> Result<Self, RuntimeError> {
        let mut options = Self::default();
        for word in words {
            // Bind and propagation words begin with an r of their own.
            let (meaning, recursive) = match (meaning(word), word.strip_prefix('r')) {
                (Some(meaning), _) => (meaning, false),
                (None, Some(rest)) => match meaning(rest) {
                    Some(found @ (Word::Set(_) | Word::Unset(_) | Word::Atime(_))) => (found, true),
                    _ => (Word::Parameter, false),
                },
                (None, None) => (Word::Parameter, false),
            };
            let target = if recursive { &mut options.recursive } else { &mut options.own };
            match meaning {
                Word::Nothing => {}
                Word::Set(bits) => {
                    target.set |= bits;
                    target.clear &= !bits;
                }
                Word::Unset(bits) => {
                    target.set &= !bits;
                    // Alone, a word that takes a restriction back has none to take back: what a
                    // bind mount's source has stays. For all below it is an order.
                    if recursive {
                        target.clear |= bits;
                    }
                }
                Word::Atime(value) => {
                    target.set = target.set & !ATIME | value;
                    // The kernel wants the whole field cleared whenever it is set.
                    target.clear |= ATIME;
                }
                Word::Bind(depth) => options.bind = Some(depth),
                Word::Map(depth) => options.idmap = Some(depth),
                Word::Propagation(kind, depth) => options.propagation.push((kind, depth)),
                Word::Parameter => options.parameters.push(word.clone()),
                Word::Unsupported => {
                    return Err(RuntimeError::Unsupported(format!("mount option {word}")));
                }
            }
        }
        Ok(options)
    }
}

fn meaning(word: &str) -> Option<Word> {
    Some(match word {
        "defaults" | "async" | "remount" | "loud" | "silent" | "nomand" | "nolazytime"
        | "noiversion" => Word::Nothing,
        "ro" => Word::Set(RDONLY),
        "rw" => Word::Unset(RDONLY),
        "nosuid" => Word::Set(NOSUID),
        "suid" => Word::Unset(NOSUID),
        "nodev" => Word::Set(NODEV),
        "dev" => Word::Unset(NODEV),
        "noexec" => Word::Set(NOEXEC),
        "exec" => Word::Unset(NOEXEC),
        "nodiratime" => Word::Set(NODIRATIME),
        "diratime" => Word::Unset(NODIRATIME),
        "nosymfollow" => Word::Set(NOSYMFOLLOW),
        "symfollow" => Word::Unset(NOSYMFOLLOW),
        "noatime" => Word::Atime(NOATIME),
        "strictatime" => Word::Atime(STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => Word::Atime(RELATIME),
        "bind" => Word::Bind(Depth::One),
        "rbind" => Word::Bind(Depth::All),
        "private" => Word::Propagation(libc::MS_PRIVATE, Depth::One),
        "rprivate" => Word::Propagation(libc::MS_PRIVATE, Depth::All),
        "shared" => Word::Propagation(libc::MS_SHARED, Depth::One),
        "rshared" => Word::Propagation(libc::MS_SHARED, Depth::All),
        "slave" => Word::Propagation(libc::MS_SLAVE, Depth::One),
        "rslave" => Word::Propagation(libc::MS_SLAVE, Depth::All),
        "unbindable" => Word::Propagation(libc::MS_UNBINDABLE, Depth::One),
        "runbindable" => Word::Propagation(libc::MS_UNBINDABLE, Depth::All),
        "sync" | "dirsync" | "mand" | "lazytime" | "iversion" => Word::Parameter,
        "idmap" => Word::Map(Depth::One),
        "ridmap" => Word::Map(Depth::All),
        "tmpcopyup" => Word::Unsupported,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        Options::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn words_are_told_from_parameters_of_the_file_system() {
        let options = parse(&["nosuid", "noexec", "size=64k", "ro", "mode=755", "rw", "sync"]);
        assert_eq!(options.own, Attributes::setting(NOSUID | NOEXEC));
        assert_eq!(options.parameters, ["size=64k", "mode=755", "sync"]);
        assert_eq!(options.bind, None);
    }

    #[test]
    fn an_r_makes_a_word_recursive_unless_it_is_its_own() {
        let options = parse(&["rbind", "rro", "rprivate", "rnoexec", "rexec"]);
        assert_eq!(options.bind, Some(Depth::All));
        assert_eq!(options.own, Attributes::default());
        assert_eq!(options.recursive, Attributes { set: RDONLY, clear: NOEXEC, propagation: 0 });
        assert_eq!(options.propagation, [(libc::MS_PRIVATE, Depth::All)]);
        assert_eq!(parse(&["ridmap"]).idmap, Some(Depth::All));
        assert!(parse(&["relatime"]).recursive.is_empty());
        assert_eq!(parse(&["rnoatime"]).recursive.set, NOATIME);
        // Not ours to understand: the file system says what it knows.
        assert_eq!(parse(&["rrelabel", "r"]).parameters, ["rrelabel", "r"]);
    }

    #[test]
    fn the_last_word_about_access_times_holds() {
        let options = parse(&["noatime", "strictatime", "nodiratime"]);
        let expected = Attributes { set: STRICTATIME | NODIRATIME, clear: ATIME, propagation: 0 };
        assert_eq!(options.own, expected);
        assert_eq!(parse(&["noatime", "relatime"]).own.set, RELATIME);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let error = Options::parse(&["tmpcopyup".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("tmpcopyup"), "{error}");
    }
}
