//! Owns which paths a history may have: the same rules for `check`, for the start, and for opening the file again.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::{Access, access};

/// The longest path that SQLite accepts.
const MAX_PATH_BYTES: usize = 500;
/// The longest file name: SQLite appends suffixes to it for its own files.
const MAX_NAME_BYTES: usize = 255 - "-journal".len();
const SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Virtual file systems of the kernel, by their magic numbers. They report that they are writable, but no file can be created.
#[cfg(target_os = "linux")]
const VIRTUAL_FILE_SYSTEMS: [u32; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0x1cd1,      // devpts
    0xcafe_4a11, // bpf
    0x6e73_6673, // nsfs
    0xf97c_ff8c, // selinuxfs
];

/// The identity of a file, which a new name does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of the file that is at this path now, if there is one.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let found = path.metadata().ok()?;
        Some(Self { device: found.dev(), inode: found.ino() })
    }
}

/// The path of a file beside the database, such as its write-ahead log.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The real path of a history at `path`: absolute and without symbolic links, so that SQLite does not take it for a URI or for
/// one of its special names. An error if no history can be kept there. Nothing is created.
pub(super) fn resolve(path: &Path) -> anyhow::Result<PathBuf> {
    let name = path.as_os_str().as_bytes();
    ensure!(!name.is_empty(), "its path is empty; leave it out to keep the latest dispatches in memory");
    if name == b":memory:" || name.starts_with(b"file:") {
        bail!(
            "that is a special name of SQLite's, not a path; leave it out to keep the latest dispatches in memory, or \
             write ./ before it if the file is to have this name"
        );
    }
    let file = path.file_name().filter(|_| !name.ends_with(b"/") && !name.ends_with(b"/."));
    let file = file.context("that names a folder; give the path of a file")?;
    let real = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => real_folder(path)?.join(file),
        Err(error) => return Err(error).context("it cannot be examined"),
        Ok(_) => path.canonicalize().context("it is a symbolic link that leads to no file")?,
    };
    ensure!(
        real.as_os_str().len() <= MAX_PATH_BYTES && file.len() <= MAX_NAME_BYTES,
        "its path is too long: SQLite accepts {MAX_PATH_BYTES} bytes, {MAX_NAME_BYTES} of them for the name"
    );
    check_folder(real.parent().unwrap_or(Path::new("/")))?;
    if let Ok(found) = real.metadata() {
        ensure!(!found.is_dir(), "it is a folder; give the path of a file");
        ensure!(found.is_file(), "it is not a file, but a device, a pipe or a socket");
        access(&real, Access::READ_OK | Access::WRITE_OK).context("it is not readable and writable")?;
    }
    for suffix in SUFFIXES {
        let sibling = with_suffix(&real, suffix);
        if sibling.symlink_metadata().is_ok_and(|found| !found.is_file()) {
            bail!("{} is in the way: SQLite needs this name for a file of its own", sibling.display());
        }
    }
    Ok(real)
}

fn real_folder(path: &Path) -> anyhow::Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder.canonicalize().with_context(|| no_folder(folder))
}

fn no_folder(folder: &Path) -> String {
    format!("its folder {} is not there, or not writable", folder.display())
}

fn check_folder(folder: &Path) -> anyhow::Result<()> {
    access(folder, Access::WRITE_OK | Access::EXEC_OK).with_context(|| no_folder(folder))?;
    #[cfg(target_os = "linux")]
    {
        let found = rustix::fs::statfs(folder).with_context(|| no_folder(folder))?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "its sign and its width differ between architectures; the magic numbers fit in 32 bits"
        )]
        let kind = found.f_type as u32;
        ensure!(
            !VIRTUAL_FILE_SYSTEMS.contains(&kind),
            "its folder {} is in a virtual file system of the kernel, which stores no files",
            folder.display()
        );
    }
    Ok(())
}
