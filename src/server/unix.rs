//! Owns the file of a Unix socket: made with its permissions, taken over from a process that is gone, removed at the end.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, FlockOperation, Mode};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Type};

use super::listen::BACKLOG;

/// Whoever may write to the file may connect: its owner and its group.
const MODE: u32 = 0o660;
/// The lock on a socket's folder is waited for so long,
const LOCK_TIME: Duration = Duration::from_secs(2);
/// and asked for this often.
const LOCK_PACE: Duration = Duration::from_millis(10);

/// The file of a socket of this process; removed when dropped, unless another one is there by then.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    is: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.is)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the file of a socket stays behind");
        }
    }
}

/// Listens on a file, also where a process that was killed has left one. `AddrInUse` if one that lives listens there.
pub(super) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // Two that start at once take turns, so that neither removes what the other has just made.
    let folder =
        File::open(folder(path)).map_err(|error| explained(&error, "its folder cannot be opened"))?;
    lock(&folder)?;
    if is_stale(path)? {
        fs::remove_file(path)?;
    }
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // Before it is bound, so that the file is never open to more than these; the mask of the process may take some away.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), is: (file.dev(), file.ino()) };
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG.into())?;
    Ok((socket.into(), file))
}

/// Locks the folder. Another start holds the lock for a moment only; whoever holds it for longer must not hold up ours.
fn lock(folder: &File) -> io::Result<()> {
    let until = Instant::now() + LOCK_TIME;
    loop {
        match rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_PACE),
            Err(error) => return Err(explained(&error.into(), "another process keeps its folder locked")),
        }
    }
}

/// Whether [`bind`] would succeed; nothing is made or removed.
pub(super) fn probe(path: &Path) -> io::Result<()> {
    is_stale(path)?;
    rustix::fs::access(folder(path), Access::WRITE_OK | Access::EXEC_OK | Access::READ_OK)
        .map_err(|error| explained(&error.into(), "its folder cannot be written to"))
}

/// Whether there is a socket that nobody listens on. Anything else in its place is an error, and stays.
fn is_stale(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "something that is no socket is there"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        // Somebody answers, or has no time, or lets nobody in: they are there.
        Ok(_) | Err(_) => Err(ErrorKind::AddrInUse.into()),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn explained(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
