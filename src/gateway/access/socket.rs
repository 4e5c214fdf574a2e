//! The unix socket in the spool's folder, for `postern queue` and `postern quarantine` on the same machine or in
//! the same pod. Only the owner of the process may connect.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;

pub const NAME: &str = "control.sock";
/// Connections at the same time.
const MOST: usize = 32;
/// What the name of a socket may take (`sun_path`, with its end).
const LONGEST: usize = 107;

/// Listens in the folder of the spool, whose lock says that a socket found there is a dead process's.
pub fn bind(folder: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(folder.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixSocket::new_stream()?;
    // Set before the name exists: there is no moment at which others could connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    within(folder, |path| socket.bind(path))?;
    socket.listen(16)
}

pub async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let (path, _open) = short(folder)?;
    UnixStream::connect(path).await
}

fn within<T>(folder: &Path, work: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let (path, _open) = short(folder)?;
    work(path)
}

/// A name of the socket that is short enough, and what must stay open for it to mean something.
fn short(folder: &Path) -> io::Result<(PathBuf, Option<rustix::fd::OwnedFd>)> {
    let path = folder.join(NAME);
    if path.as_os_str().len() <= LONGEST {
        return Ok((path, None));
    }
    let open = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/{NAME}", open.as_raw_fd())), Some(open)))
}

/// Serves until `stop`. `router` gets the user id of each client.
pub async fn serve(listener: UnixListener, router: impl Fn(u32) -> Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept(), if connections.len() < MOST => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            // Full: look again when one may have ended.
            () = tokio::time::sleep(Duration::from_millis(100)), if connections.len() >= MOST => continue,
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        connections.spawn(admin::connection(stream, router(peer.uid()), stop.clone()));
    }
    connections.close();
    let _ = tokio::time::timeout(Duration::from_secs(10), connections.wait()).await;
}
