//! Files that hold commands or memories: regular files of this user that no other user may write.
//!
//! A file is looked at before it is opened (opening a FIFO waits, opening a device may do something) and again when it is open
//! (it may have been exchanged in between). It is opened without following a symbolic link, and must have one name only: a
//! second name in another directory would be another user's way to have one of our files read from a place of their choice.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// The permission bits that let the group or others write.
const FOREIGN_WRITE: u32 = 0o022;

/// Why a file or directory is not used.
#[derive(Debug)]
pub(crate) enum NotOwn {
    Io(io::Error),
    /// What it is and what it should be, with its path.
    Refused(String),
}

impl From<io::Error> for NotOwn {
    fn from(error: io::Error) -> Self {
        NotOwn::Io(error)
    }
}

/// Is this a directory of this user that no other user may write to?
pub(crate) fn check_directory(path: &Path) -> Result<(), NotOwn> {
    let link = fs::symlink_metadata(path)?;
    if link.is_symlink() && link.uid() != own_uid() && link.uid() != 0 {
        return Err(refused(path, &format!("is a symbolic link of user {}", link.uid())));
    }
    let found = fs::metadata(path)?;
    if !found.is_dir() {
        return Err(refused(path, "is not a directory"));
    }
    check(path, &found, false)
}

/// Opens a file that is there; `is_writable` says for what.
pub(crate) fn open(path: &Path, is_writable: bool) -> Result<File, NotOwn> {
    check_file(path, &fs::symlink_metadata(path)?)?;
    let access = if is_writable { OFlags::RDWR } else { OFlags::RDONLY };
    let file = open_with(path, access)?;
    check_opened(path, &file.metadata()?)?;
    Ok(file)
}

/// A file without a name was deleted since it was opened, by another process that opens or closes the same journal: it is not
/// there any more.
fn check_opened(path: &Path, found: &Metadata) -> Result<(), NotOwn> {
    if found.nlink() == 0 {
        return Err(NotOwn::Io(io::Error::from(io::ErrorKind::NotFound)));
    }
    check_file(path, found)
}

/// Makes a file, readable and writable by this user only. An error of the kind `AlreadyExists` if there is one.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    open_with(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
}

/// Is there a file, and is it one of ours? For what another library opens by its name.
pub(crate) fn check_if_there(path: &Path) -> Result<bool, NotOwn> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => check_file(path, &found?).map(|()| true),
    }
}

fn open_with(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened: OwnedFd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(opened.into())
}

fn check_file(path: &Path, found: &Metadata) -> Result<(), NotOwn> {
    if !found.is_file() {
        return Err(refused(path, "is not a regular file"));
    }
    check(path, found, true)
}

fn check(path: &Path, found: &Metadata, is_file: bool) -> Result<(), NotOwn> {
    if found.uid() != own_uid() {
        return Err(refused(
            path,
            &format!("belongs to user {}, and this process runs as user {}", found.uid(), own_uid()),
        ));
    }
    if found.mode() & FOREIGN_WRITE != 0 {
        return Err(refused(
            path,
            &format!("may be written by others (mode {:04o}): chmod go-w", found.mode() & 0o7777),
        ));
    }
    if is_file && found.nlink() != 1 {
        return Err(refused(path, &format!("has {} names (hard links)", found.nlink())));
    }
    Ok(())
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn refused(path: &Path, reason: &str) -> NotOwn {
    NotOwn::Refused(format!("{} {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_deleted_since_it_was_opened_is_not_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let file = create(&path).expect("made");
        check_opened(&path, &file.metadata().expect("open")).expect("there");
        fs::remove_file(&path).expect("removed");
        match check_opened(&path, &file.metadata().expect("open")) {
            Err(NotOwn::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_with_a_second_name_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let file = create(&path).expect("made");
        fs::hard_link(&path, directory.path().join("second")).expect("linked");
        let refusal = check_opened(&path, &file.metadata().expect("open"));
        assert!(matches!(refusal, Err(NotOwn::Refused(reason)) if reason.ends_with("has 2 names (hard links)")));
    }
}
