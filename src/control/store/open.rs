//! Opening a store: a new one appears whole under its name, an old one is walked through in memory before it is touched.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, DatabaseError, StorageBackend};

use super::records::{self, ABOUT, RECORDS, SCHEMA};
use crate::control::model::Model;

/// The first bytes of every redb file. Source: redb's docs/design.md, "Super-header".
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// Pages kept in memory. Units: bytes. A thousand endpoints are about one megabyte.
const CACHE: usize = 4 << 20;
/// A larger file is none of ours. Units: bytes.
const LARGEST: u64 = 1 << 30;

/// The exit code of weft's own failure.
const EXIT_FAILED: i32 = 125;

/// Why a store cannot be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a store of weft's.
    #[error("it is not a store of weft's; move it away, or name another state directory")]
    Foreign,
    /// Written by another release.
    #[error("its schema is {0} and this weft's is {SCHEMA}: it was written by another release")]
    Schema(String),
    /// Damaged.
    #[error("it is damaged ({0}); restore it, or move it away to begin with nothing")]
    Torn(String),
    /// One record cannot be read.
    #[error(
        "its record {0} cannot be read ({1}); restore it, or move it away to begin with nothing"
    )]
    Record(String, String),
    /// Another process has it.
    #[error("another weft has it open")]
    Busy,
    /// The operating system has refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OpenError {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is open, and all else means that bytes are not what they should be"
    )]
    pub(super) fn torn(error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::Busy,
            redb::Error::Io(e) if e.kind() != io::ErrorKind::UnexpectedEof => Self::Io(e),
            other => Self::Torn(other.to_string().replace('\n', " ")),
        }
    }
}

/// Opens the store at `path`, and makes an empty one if nothing is there. Gives what is in it.
/// Errors: see [`OpenError`]; the file is left as it was.
pub fn open(path: &Path) -> Result<(Database, Model), OpenError> {
    match there(path) {
        Err(OpenError::Io(e)) if e.kind() == io::ErrorKind::NotFound => create(path),
        opened => opened,
    }
}

/// Opens the store at `path` once more. Errors: see [`OpenError`]; one that is gone by now is not made anew, since it would
/// hold nothing of what the switch has.
pub fn reopen(path: &Path) -> Result<Database, OpenError> {
    there(path).map(|(database, _)| database)
}

fn there(path: &Path) -> Result<(Database, Model), OpenError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        // A pipe would be waited for when it is read.
        Ok(file) if !file.metadata()?.is_file() => Err(OpenError::Foreign),
        Ok(file) => {
            let backend = lock(FileBackend::new(file))?;
            let mut bytes = Vec::new();
            // The lock belongs to the description that the backend holds: this one is for reading only.
            File::open(path)?
                .take(LARGEST + 1)
                .read_to_end(&mut bytes)?;
            check(path, &bytes)?;
            open_backend(backend)
        }
        Err(e) => Err(e.into()),
    }
}

fn lock(backend: Result<FileBackend, DatabaseError>) -> Result<FileBackend, OpenError> {
    backend.map_err(OpenError::torn)
}

/// Makes an empty store beside the name and moves it there, so that no half of one is ever found under it.
fn create(path: &Path) -> Result<(Database, Model), OpenError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let opened = open_backend(lock(FileBackend::new(file))?)?;
    fs::rename(&new, path)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    Ok(opened)
}

/// Opens a store on any storage; an empty one becomes an empty store.
/// Errors: see [`OpenError`]. What is not empty must have been checked, since opening repairs what a crash has left.
pub fn open_backend(backend: impl StorageBackend) -> Result<(Database, Model), OpenError> {
    let empty = backend.len()? == 0;
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    let database = builder
        .create_with_backend(backend)
        .map_err(OpenError::torn)?;
    if empty {
        let transaction = database.begin_write().map_err(OpenError::torn)?;
        {
            let mut about = transaction.open_table(ABOUT).map_err(OpenError::torn)?;
            about.insert("schema", SCHEMA).map_err(OpenError::torn)?;
            transaction.open_table(RECORDS).map_err(OpenError::torn)?;
        }
        transaction.commit().map_err(OpenError::torn)?;
    }
    let model = records::read(&database)?;
    Ok((database, model))
}

/// Walks through a copy: every page, every record.
fn check(path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    if bytes.is_empty() {
        return Err(OpenError::Torn("it is empty".to_owned()));
    }
    if !bytes.starts_with(&MAGIC) || bytes.len() as u64 > LARGEST {
        return Err(OpenError::Foreign);
    }
    guarded(path, || walk(bytes))
}

fn walk(bytes: &[u8]) -> Result<(), OpenError> {
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64)?;
    copy.write(0, bytes)?;
    let mut database = Builder::new()
        .set_cache_size(CACHE)
        .create_with_backend(copy)
        .map_err(OpenError::torn)?;
    // False tells of a repair, which a crash makes necessary and which has succeeded.
    database.check_integrity().map_err(OpenError::torn)?;
    records::read(&database).map(drop)
}

/// Runs a check of bytes that may be anything. redb holds some damage for impossible and panics: that is an answer too.
fn guarded(path: &Path, check: impl FnOnce() -> Result<(), OpenError>) -> Result<(), OpenError> {
    let before = panic::take_hook();
    let shown = path.display().to_string();
    panic::set_hook(Box::new(move |_| {
        if cfg!(panic = "abort") {
            // Where a panic cannot be caught this is the last that can be said, and one line must say it.
            let error = OpenError::Torn("a page is not what it should be".to_owned());
            let _ = writeln!(io::stderr(), "weft: store {shown}: {error}");
            std::process::exit(EXIT_FAILED);
        }
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(check));
    panic::set_hook(before);
    result.unwrap_or_else(|_| {
        Err(OpenError::Torn(
            "a page is not what it should be".to_owned(),
        ))
    })
}
