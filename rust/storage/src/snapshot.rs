//! Snapshots of the memory index as files.
//!
//! A snapshot is written beside its final name, synced, and renamed over it; then the directory is synced. So the name
//! always leads to a whole snapshot, the old or the new one, and a file that has the name is never changed again. That is
//! what makes it safe to map it, here and in other processes.

use agent_memory_core::scoring::index::Index;
use agent_memory_core::scoring::index::snapshot::{
    SharedBytes, SnapshotError, Written, map_vectors, read_snapshot, write_snapshot,
};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a snapshot could not be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The file could not be read.
    Io(io::Error),
    /// The file is not a snapshot, or a damaged one, or of another version.
    Snapshot(SnapshotError),
}

struct Mapping(memmap2::Mmap);

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Distinguishes the temporary names of saves that run at once in one process.
static SAVES: AtomicU64 = AtomicU64::new(0);

/// Writes a snapshot of `index` to `path`, replacing what is there in one step. With `mapped` the elements of the vectors
/// that were written are then left to the file, which stays mapped as long as the index lives.
///
/// # Errors
///
/// Those of the file system; then `path` is as it was and no temporary file is left. If only the mapping failed, the
/// snapshot is there and the elements stay in memory.
pub fn save(index: &Index, path: &Path, mapped: bool) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path must name a file"))?;
    let mut aside_name = name.to_owned();
    aside_name.push(format!(".{}.{}.tmp", std::process::id(), SAVES.fetch_add(1, Ordering::Relaxed)));
    let aside = directory.join(aside_name);
    let result = write_aside(index, &aside).and_then(|done| fs::rename(&aside, path).map(|()| done));
    let (written, file) = match result {
        Ok(done) => done,
        Err(error) => {
            let _ = fs::remove_file(&aside); // the error that is reported is the first one
            return Err(error);
        }
    };
    File::open(directory)?.sync_all()?;
    if mapped {
        map_vectors(index, &map(&file)?, written);
    }
    Ok(())
}

fn map(file: &File) -> io::Result<SharedBytes> {
    // SAFETY: a snapshot is never changed in place (see the module's text). Truncating one that is mapped makes
    // the process die by SIGBUS, as with every mapped file; the documentation says so.
    #[allow(unsafe_code)]
    let mapping = unsafe { memmap2::Mmap::map(file) }?;
    Ok(Arc::new(Mapping(mapping)))
}

/// Options that make a file for this user alone: texts are in it.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The file that is returned is the one that was written, even if its name was replaced meanwhile.
fn write_aside(index: &Index, aside: &PathBuf) -> io::Result<(Written, File)> {
    let file = private().read(true).write(true).create_new(true).open(aside)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let written = write_snapshot(index, &mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok((written, file))
}

/// Most threads that read one snapshot; more would wait for memory.
const MAX_LOAD_THREADS: usize = 4;

fn load_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_LOAD_THREADS)
}

/// Loads a snapshot, by as many threads as there are processors, [`MAX_LOAD_THREADS`] at most. With `mapped` the vectors'
/// elements stay in the file, which stays mapped as long as the index lives.
///
/// # Errors
///
/// If the file cannot be read or is not a whole snapshot of this version.
pub fn load(path: &Path, mapped: bool) -> Result<Index, LoadError> {
    let file = File::open(path).map_err(LoadError::Io)?;
    if file.metadata().map_err(LoadError::Io)?.len() == 0 {
        let empty: SharedBytes = Arc::new(Vec::new());
        return read_snapshot(&empty, false, 1).map_err(LoadError::Snapshot);
    }
    let bytes = map(&file).map_err(LoadError::Io)?;
    read_snapshot(&bytes, mapped, load_threads()).map_err(LoadError::Snapshot)
}

#[cfg(test)]
mod tests {
    use super::{LoadError, load, save};
    use agent_memory_core::scoring::index::codes::Rotation;
    use agent_memory_core::scoring::index::segment::NewRow;
    use agent_memory_core::scoring::index::text::{Analyzer, Bm25};
    use agent_memory_core::scoring::index::{Index, Settings};
    use agent_memory_core::scoring::parts::Metric;

    fn index() -> Index {
        let index = Index::new(Settings {
            dimensions: 2,
            metric: Metric::Cosine,
            analyzer: Analyzer::new("none").expect("known"),
            bm25: Bm25::default(),
            context: false,
            model: String::new(),
            rotation: Rotation::new(2),
        });
        let row = NewRow { id: "a".to_owned(), ..NewRow::default() };
        index.upsert(vec![row], vec![1.0, 2.0], &[]).expect("room");
        index
    }

    #[test]
    fn a_save_replaces_and_leaves_nothing_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("index");
        for _ in 0..2 {
            save(&index(), &path, false).expect("saved");
        }
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 1);
        for mapped in [false, true] {
            assert_eq!(load(&path, mapped).expect("loaded").state().len(), 1);
        }
    }

    #[test]
    fn failures_are_told_apart_and_leave_nothing_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(save(&index(), &directory.path().join("absent/index"), true).is_err());
        assert!(save(&index(), directory.path(), true).is_err(), "a directory is in the way");
        let empty = directory.path().join("empty");
        std::fs::write(&empty, b"").expect("written");
        assert!(matches!(load(&empty, true), Err(LoadError::Snapshot(_))));
        assert!(matches!(load(&directory.path().join("absent"), true), Err(LoadError::Io(_))));
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 1);
    }
}
