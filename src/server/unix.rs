//! Owns the file of a Unix socket: creates it with its permissions, replaces a stale one, and removes it at the end.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, FlockOperation, Mode};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Type};

use super::socket::BACKLOG;

/// A client needs write permission to connect: the owner and the group have it.
const MODE: u32 = 0o660;
/// How long to wait for the lock on the socket's folder,
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// and the interval between two attempts.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// The file of a socket of this process. Removed when dropped, unless another process has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The numbers of its device and its inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the file of a Unix socket could not be removed");
        }
    }
}

/// Listens on a file, and replaces one that a killed process has left. `AddrInUse` if a running process listens on it.
pub(super) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // Two processes that start at once take turns, so that neither removes the file that the other has just created.
    let folder =
        File::open(folder(path)).map_err(|error| with_reason(&error, "its folder cannot be opened"))?;
    lock(&folder)?;
    if is_stale(path)? {
        fs::remove_file(path)?;
    }
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // Before it is bound, so that the file never has wider permissions. The umask of the process may narrow them further.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (file.dev(), file.ino()) };
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG.into())?;
    Ok((socket.into(), file))
}

/// Locks the folder. Another start of a broker holds the lock only for a moment; if another process holds it for longer,
/// fails instead of waiting.
fn lock(folder: &File) -> io::Result<()> {
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        match rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_INTERVAL),
            Err(error) => return Err(with_reason(&error.into(), "another process keeps its folder locked")),
        }
    }
}

/// Checks whether [`bind`] would succeed, without creating or removing anything.
pub(super) fn probe(path: &Path) -> io::Result<()> {
    is_stale(path)?;
    rustix::fs::access(folder(path), Access::WRITE_OK | Access::EXEC_OK | Access::READ_OK)
        .map_err(|error| with_reason(&error.into(), "its folder cannot be written to"))
}

/// Whether there is a socket file that no process listens on. Any other file there is an error.
fn is_stale(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "a file that is not a socket is there"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        // Connected, the queue is full, or no permission: in each case a process listens.
        Ok(_) | Err(_) => Err(ErrorKind::AddrInUse.into()),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn with_reason(error: &io::Error, reason: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{reason}: {error}"))
}
