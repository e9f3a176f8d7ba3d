//! Owns where a history may be kept: one judgement for `check`, for the start, and for each time that the file is opened again.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::{Access, access};

/// SQLite takes no longer path,
const MAX_PATH_BYTES: usize = 500;
/// and puts files beside it whose names are so much longer.
const MAX_NAME_BYTES: usize = 255 - "-journal".len();
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// File systems of the kernel's own, by their magic numbers: they say that they are writable, and take no file.
#[cfg(target_os = "linux")]
const NO_PLACE_FOR_FILES: [u32; 12] = [
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

/// A file, whatever its name is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of the file that has this path now, if there is one.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let found = path.metadata().ok()?;
        Some(Self { device: found.dev(), inode: found.ino() })
    }
}

/// The path of a file beside the database, such as its write-ahead log.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The real path of a history that could be kept here: absolute, and without symbolic links, so that SQLite sees neither a
/// URI nor another name of its own in it. Nothing is made.
pub(super) fn resolve(path: &Path) -> anyhow::Result<PathBuf> {
    let name = path.as_os_str().as_bytes();
    ensure!(!name.is_empty(), "its path is empty; leave it out to keep the latest dispatches in memory");
    if name == b":memory:" || name.starts_with(b"file:") {
        bail!(
            "that is a name of SQLite's own, and no path; leave it out to keep the latest dispatches in memory, or \
             write ./ before it if a file is to have this name"
        );
    }
    let file = path.file_name().filter(|_| !name.ends_with(b"/") && !name.ends_with(b"/."));
    let file = file.context("that names a folder; give the path of a file")?;
    let real = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => folder(path)?.join(file),
        Err(error) => return Err(error).context("it cannot be looked at"),
        Ok(_) => path.canonicalize().context("it is a symbolic link that leads to no file")?,
    };
    ensure!(
        real.as_os_str().len() <= MAX_PATH_BYTES && file.len() <= MAX_NAME_BYTES,
        "its path is too long: SQLite takes {MAX_PATH_BYTES} bytes, and {MAX_NAME_BYTES} of them for the name"
    );
    check_folder(real.parent().unwrap_or(Path::new("/")))?;
    if let Ok(found) = real.metadata() {
        ensure!(!found.is_dir(), "it is a folder; give the path of a file");
        ensure!(found.is_file(), "it is no file, but a device, a pipe or a socket");
        access(&real, Access::READ_OK | Access::WRITE_OK).context("it is not readable and writable")?;
    }
    for suffix in BESIDE {
        let beside = beside(&real, suffix);
        if beside.symlink_metadata().is_ok_and(|found| !found.is_file()) {
            bail!("{} is in the way: SQLite keeps a file of its own there", beside.display());
        }
    }
    Ok(real)
}

fn folder(path: &Path) -> anyhow::Result<PathBuf> {
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
            reason = "it is signed or not, and 32 or 64 bits wide, as the architecture has it"
        )]
        let kind = found.f_type as u32;
        ensure!(
            !NO_PLACE_FOR_FILES.contains(&kind),
            "its folder {} is the kernel's own, and takes no file",
            folder.display()
        );
    }
    Ok(())
}
