//! The host's key on the disk: beside the store, for its owner only, made when it is first needed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use super::engine::problem;
use super::key::{PublicKey, StaticKey};
use super::plane::Plane;
use crate::config::{Code, Problem};

/// Bytes that are read at most: a key's file has 45.
const LONGEST: u64 = 256;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is something else.
    #[error("{0} holds no key; move it away, or make another with 'weft key new --replace'")]
    Broken(PathBuf),
    /// Others can read or change the file.
    #[error(
        "{path} is open to others (mode {mode:03o}): 'chmod 600' closes it, and 'weft key new --replace' makes a key that nobody has read"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file belongs to a third.
    #[error("{path} belongs to user {owner}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// There is a key already.
    #[error("there is a key already; 'weft key new --replace' makes another, which no peer knows")]
    Exists,
    /// The kernel gives no random bytes.
    #[error("no random bytes from the kernel: {0}")]
    Random(#[from] getrandom::Error),
    /// It cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Where the key that goes with a store is.
#[must_use]
pub fn path(store: &Path) -> PathBuf {
    store.with_extension("key")
}

/// Reads the key. `None` where there is none yet.
/// Errors: as told by [`IdentityError`]; the file is left as it is.
pub fn load(path: &Path) -> Result<Option<StaticKey>, IdentityError> {
    let failed = |error| IdentityError::Io {
        path: path.to_owned(),
        error,
    };
    let broken = || IdentityError::Broken(path.to_owned());
    let open = OpenOptions::new()
        .read(true)
        // A pipe in the file's place would be waited for.
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let file = match open {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(broken());
    }
    let (owner, mode) = (about.uid(), about.mode() & 0o777);
    let own = nix::unistd::geteuid();
    if owner != own.as_raw() && !own.is_root() {
        let path = path.to_owned();
        return Err(IdentityError::Foreign { path, owner });
    }
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(IdentityError::Open { path, mode });
    }
    let mut text = String::new();
    let read = file.take(LONGEST).read_to_string(&mut text);
    match read {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(broken()),
        other => other.map_err(failed)?,
    };
    StaticKey::parse(text.trim_end())
        .map(Some)
        .map_err(|_| broken())
}

/// Makes a key, and with `replace` in the place of one that is there. Whoever dies midway leaves the old one, or none.
/// Errors: `Exists`; as told by [`IdentityError`].
pub fn make(path: &Path, replace: bool) -> Result<StaticKey, IdentityError> {
    let failed = |error| IdentityError::Io {
        path: path.to_owned(),
        error,
    };
    if !replace && fs::symlink_metadata(path).is_ok() {
        return Err(IdentityError::Exists);
    }
    let key = StaticKey::generate()?;
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty());
    let dir = dir.unwrap_or_else(|| Path::new("."));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(failed)?;
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    let written = write(&new, &key).and_then(|()| {
        if replace {
            return fs::rename(&new, path);
        }
        // Unlike a rename this takes no other's key away that came meanwhile.
        let linked = fs::hard_link(&new, path);
        let _ = fs::remove_file(&new);
        linked
    });
    match written.and_then(|()| File::open(dir)?.sync_all()) {
        Ok(()) => Ok(key),
        Err(e) => {
            let _ = fs::remove_file(&new);
            if e.kind() == io::ErrorKind::AlreadyExists {
                return Err(IdentityError::Exists);
            }
            Err(failed(e))
        }
    }
}

fn write(path: &Path, key: &StaticKey) -> io::Result<()> {
    // One of a process that had our number and died.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(format!("{}\n", BASE64.encode(key.private())).as_bytes())?;
    file.sync_all()
}

/// Reads the key, or makes one. Errors: as told by [`IdentityError`].
pub fn need(path: &Path) -> Result<StaticKey, IdentityError> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    match make(path, false) {
        // Another process was quicker.
        Err(IdentityError::Exists) => {
            load(path)?.ok_or_else(|| IdentityError::Broken(path.to_owned()))
        }
        other => other,
    }
}

/// The host's key as the daemon holds it.
#[derive(Debug, Default)]
pub struct Identity {
    /// Where it is kept; nowhere in tests of control alone.
    path: Option<PathBuf>,
    key: Option<StaticKey>,
    /// The data plane has it.
    told: bool,
}

impl Identity {
    /// The key that is kept at a path. One that is there already is known from the start; one that cannot be read is told
    /// when it is needed.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self {
            key: load(&path).ok().flatten(),
            path: Some(path),
            told: false,
        }
    }

    /// The half that others know, once there is a key.
    #[must_use]
    pub fn known(&self) -> Option<PublicKey> {
        self.key.as_ref().map(|k| *k.public())
    }

    /// Makes sure that there is a key. Errors: `BadKey` when it cannot be had.
    pub fn need(&mut self) -> Result<PublicKey, Problem> {
        let key = match self.key.take() {
            Some(key) => key,
            None => {
                let made = self
                    .path
                    .as_deref()
                    .map_or_else(|| StaticKey::generate().map_err(IdentityError::from), need);
                made.map_err(|e| Problem::new(Code::BadKey, format!("this host's key: {e}")))?
            }
        };
        Ok(*self.key.insert(key).public())
    }

    /// Reads the key anew. True where it is another, which the data plane has then if it had the one before.
    /// Errors: `BadKey` when it cannot be read, and those of the data plane; then the one before stays.
    pub fn renew<P: Plane + ?Sized>(&mut self, plane: &mut P) -> Result<bool, Problem> {
        let bad = |e| Problem::new(Code::BadKey, format!("this host's key: {e}"));
        let found = self.path.as_deref().map(load).transpose().map_err(bad)?;
        let Some(found) = found
            .flatten()
            .filter(|found| self.key.as_ref() != Some(found))
        else {
            return Ok(false);
        };
        if self.told {
            plane.set_key(&found).map_err(|e| problem(&e))?;
        }
        self.key = Some(found);
        Ok(true)
    }

    /// Makes sure that the data plane has the key. Errors: `BadKey`, and those of the data plane.
    pub fn tell<P: Plane + ?Sized>(&mut self, plane: &mut P) -> Result<PublicKey, Problem> {
        let public = self.need()?;
        if let (Some(key), false) = (&self.key, self.told) {
            plane.set_key(key).map_err(|e| problem(&e))?;
            self.told = true;
        }
        Ok(public)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let at = path(&dir.path().join("state/weft.redb"));
        assert_eq!(at, dir.path().join("state/weft.key"));
        assert_eq!(load(&at).unwrap(), None);
        let key = need(&at).unwrap();
        assert_eq!(need(&at).unwrap(), key);
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&at), 0o600);
        assert_eq!(mode(at.parent().unwrap()), 0o700);
        assert!(matches!(make(&at, false), Err(IdentityError::Exists)));
        assert_eq!(load(&at).unwrap(), Some(key.clone()));
        let other = make(&at, true).unwrap();
        assert_ne!(other, key);
        assert_eq!(load(&at).unwrap(), Some(other));
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(at.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_broken_or_open_to_others_is_refused_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("weft.key");
        let whole = BASE64.encode(StaticKey::generate().unwrap().private());
        let put = |text: &[u8], mode: u32| {
            fs::write(&at, text).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
        };
        for text in [
            &b""[..],
            b"key",
            &whole.as_bytes()[..43],
            b"\xff\xfe",
            &[b'A'; 4000],
        ] {
            put(text, 0o600);
            let error = need(&at).unwrap_err();
            assert!(matches!(error, IdentityError::Broken(_)), "{error}");
            assert_eq!(fs::read(&at).unwrap(), text);
            assert_eq!(error.to_string().lines().count(), 1);
        }
        for mode in [0o640, 0o604, 0o660] {
            put(whole.as_bytes(), mode);
            let error = need(&at).unwrap_err();
            assert!(matches!(error, IdentityError::Open { .. }), "{error}");
            assert!(!error.to_string().contains(&whole));
        }
        put(whole.as_bytes(), 0o400);
        assert!(need(&at).is_ok());
        fs::remove_file(&at).unwrap();
        fs::create_dir(&at).unwrap();
        assert!(matches!(need(&at), Err(IdentityError::Broken(_))));
    }
}
