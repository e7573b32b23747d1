//! The Kubernetes CRI: where it is served and what networks its pods get.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pouch_api_docker::Listener;
use pouch_cni::{Cni, CniConfig, NativeUse};
use tokio::net::UnixStream;

use crate::args::Args;
use crate::config::{ConfigError, FileConfig};
use crate::listen::SocketError;

/// Where kubelet finds it.
const SOCKET: &str = "/var/run/pouchcri.sock";
/// Clients of streams come from kubelet, on this machine.
const STREAMS: &str = "127.0.0.1:0";

/// The CRI, as configured.
#[derive(Debug, Clone)]
pub(crate) struct CriSettings {
    socket: PathBuf,
    streams: SocketAddr,
    cni: CniConfig,
}

impl CriSettings {
    /// `None` when it is not asked for.
    pub(crate) fn resolve(
        args: &Args,
        file: &FileConfig,
        exec_root: &Path,
    ) -> Result<Option<Self>, ConfigError> {
        let refuse = |message: String| Err(ConfigError::Value(message));
        let host = args.cri_host.as_ref().or(file.cri_host.as_ref());
        let streams = args.cri_stream_address.as_ref().or(file.cri_stream_address.as_ref());
        let conf_dir = args.cni_conf_dir.as_ref().or(file.cni_conf_dir.as_ref());
        let bin_dirs = match args.cni_bin_dirs.is_empty() {
            true => file.cni_bin_dirs.as_ref(),
            false => Some(&args.cni_bin_dirs),
        };
        let by_flag = args.enable_cri || args.cri_host.is_some();
        let by_file = file.enable_cri.unwrap_or_else(|| file.cri_host.is_some());
        if !(by_flag || by_file) {
            for (given, key) in [
                (streams.is_some(), "cri-stream-address"),
                (conf_dir.is_some(), "cni-conf-dir"),
                (bin_dirs.is_some(), "cni-bin-dirs"),
                (file.cni_cache_dir.is_some(), "cni-cache-dir"),
                (file.cni_native.is_some(), "cni-native"),
            ] {
                if given {
                    return refuse(format!("{key} needs enable-cri"));
                }
            }
            return Ok(None);
        }
        let socket = match host {
            None => PathBuf::from(SOCKET),
            Some(url) => match url.strip_prefix("unix://") {
                Some(path) if path.starts_with('/') => path.into(),
                _ => return refuse(format!("invalid cri-host {url:?}: want unix:///path")),
            },
        };
        let streams = streams.map_or(STREAMS, String::as_str);
        let streams: SocketAddr = match streams.parse() {
            Ok(address) => address,
            Err(_) => {
                return refuse(format!(
                    "cri-stream-address {streams:?} is not an address and port"
                ));
            }
        };
        if streams.ip().is_unspecified() {
            return refuse(format!(
                "cri-stream-address {streams}: clients have to be told one address"
            ));
        }
        let mut cni = CniConfig::new(exec_root.join("cni"));
        if let Some(dir) = conf_dir {
            cni.conf_dir.clone_from(dir);
        }
        if let Some(dirs) = bin_dirs {
            cni.bin_dirs.clone_from(dirs);
        }
        if let Some(dir) = &file.cni_cache_dir {
            cni.cache_dir.clone_from(dir);
        }
        if file.cni_native == Some(false) {
            cni.native = NativeUse::No;
        }
        for dir in cni.bin_dirs.iter().chain([&cni.conf_dir, &cni.cache_dir]) {
            if !dir.is_absolute() {
                return refuse(format!("{} is not an absolute path", dir.display()));
            }
        }
        Ok(Some(Self { socket, streams, cni }))
    }

    /// Opens the socket, closed to everybody but root: who may make pods owns the machine.
    pub(crate) fn listen(&self) -> Result<Connections, SocketError> {
        Ok(Connections(Listener::unix(&self.socket, None)?))
    }

    /// Opens the networks of pods.
    pub(crate) async fn networks(&self) -> Result<Cni, pouch_cni::CniError> {
        Cni::open(self.cni.clone()).await
    }

    pub(crate) fn api(&self) -> pouch_api_cri::Config {
        pouch_api_cri::Config { streaming: self.streams, record: None }
    }
}

/// The CRI's listener.
#[derive(Debug)]
pub(crate) struct Connections(Listener);

impl pouch_api_cri::Accept for Connections {
    async fn accept(&mut self) -> io::Result<UnixStream> {
        self.0.accept_unix().await
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn resolve(args: &[&str], file: &str) -> Result<Option<CriSettings>, String> {
        let args = Args::parse_from(std::iter::once(&"pouchd").chain(args));
        let file = serde_json::from_str(file).unwrap();
        CriSettings::resolve(&args, &file, Path::new("/run/x")).map_err(|e| e.to_string())
    }

    #[test]
    fn it_is_served_where_it_is_asked_for() {
        assert!(resolve(&[], "{}").unwrap().is_none());
        let settings = resolve(&["--enable-cri"], "{}").unwrap().unwrap();
        assert_eq!(settings.socket, Path::new("/var/run/pouchcri.sock"));
        assert!(settings.streams.ip().is_loopback());
        let file =
            r#"{"cri-host": "unix:///c.sock", "cni-conf-dir": "/n", "cni-bin-dirs": ["/b"]}"#;
        let settings = resolve(&["--cni-conf-dir", "/m"], file).unwrap().unwrap();
        assert_eq!(settings.socket, Path::new("/c.sock"));
        assert_eq!(settings.cni.conf_dir, Path::new("/m"), "flags win");
        assert_eq!(settings.cni.bin_dirs, [PathBuf::from("/b")]);
        let off = r#"{"cri-host": "unix:///c.sock", "enable-cri": false}"#;
        assert!(resolve(&[], off).unwrap().is_none());
    }

    #[test]
    fn wrong_settings_are_named() {
        for (args, file, want) in [
            (&["--cri-host", "tcp://1.2.3.4:5"][..], "{}", "cri-host"),
            (&["--enable-cri", "--cri-stream-address", "0.0.0.0:1"], "{}", "cri-stream-address"),
            (&["--enable-cri", "--cni-conf-dir", "net.d"], "{}", "net.d"),
            (&[], r#"{"cni-native": false}"#, "cni-native needs"),
        ] {
            let error = resolve(args, file).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
