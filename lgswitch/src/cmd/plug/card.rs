//! A card for any VMM, over vhost-user.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lgswitch::Port;
use lgswitch::plug::vhost_user;

use super::Signals;

/// Pairs of queues it has at most.
pub const MAX_PAIRS: i64 = vhost_user::MAX_PAIRS as i64;

/// Serves a port to whoever connects to the socket at `path`, until told to end.
pub fn serve(port: Port, path: &Path, label: String, pairs: u8, signals: &Signals) -> Result<()> {
    let socket = Socket::bind(path)?;
    let listener = socket.listener.try_clone()?;
    let options = vhost_user::Options {
        again: true,
        pairs: pairs.into(),
        ..vhost_user::Options::new(label)
    };
    let _service = vhost_user::serve(port, listener, options)?;
    signals.wait(None)
}

/// A listening socket whose name goes with it.
struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Binds; a socket that a killed program left there, and nobody listens on, is replaced.
    fn bind(path: &Path) -> Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        Ok(Self {
            path: path.to_owned(),
            listener: listener.with_context(|| format!("Can't listen on {}", path.display()))?,
        })
    }
}

fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(|e| e.kind() == refused)
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
