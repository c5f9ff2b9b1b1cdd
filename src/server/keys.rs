//! The sources of the keys: settings, or files that are read again when they change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{error, info, warn};

use crate::config::ServeConfig;
use crate::error::{Error, Result};
use crate::http::{KeyList, Keys, Role};
use crate::store::folder::Folder;

/// The dashboard key's file in the data folder.
const KEY_FILE: &str = "dash_key";
/// Permission bits of group and others.
const GROUP_AND_OTHERS: u32 = 0o077;
/// Most bytes of a file of keys; a larger file is not one.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// Interval at which the files are inspected. A changed file is read when it has not changed for
/// one interval, so that no half-written key becomes valid.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(2);

/// The sources of all keys.
pub struct KeySources {
    sources: Vec<(Role, KeySource)>,
    command_line: String,
    versions: Mutex<Versions>,
}

/// The source of the keys of one role.
enum KeySource {
    /// A setting, which is constant until a restart.
    Setting(String),
    /// A file.
    File(PathBuf),
}

/// A version of a file: inode, size and time of the last change. `None` if there is no such file.
type FileVersion = Option<(u64, u64, i64, i64)>;

#[derive(Default)]
struct Versions {
    /// Those that were read.
    read: Vec<FileVersion>,
    /// Those of the last inspection.
    seen: Vec<FileVersion>,
}

impl KeySources {
    /// The sources in the settings. Without one of a dashboard key it is the file in the data
    /// folder, which is created if it does not exist.
    ///
    /// # Errors
    /// If that file or a random key for the command line cannot be created.
    pub fn new(config: &ServeConfig, folder: &Folder) -> Result<Self> {
        let dash = match KeySource::given(config.dash_key.as_ref(), config.dash_key_file.as_ref()) {
            Some(source) => source,
            None => {
                let path = folder.path().join(KEY_FILE);
                if !path.exists() {
                    let key = format!("{}\n", random_key(&path)?);
                    folder.replace(KEY_FILE, key.as_bytes())?;
                }
                KeySource::File(path)
            }
        };
        let read = KeySource::given(config.read_key.as_ref(), config.read_key_file.as_ref());
        let mut sources = vec![(Role::Dash, dash)];
        sources.extend(read.map(|read| (Role::Read, read)));
        Ok(Self {
            sources,
            command_line: random_key(folder.path())?,
            versions: Mutex::default(),
        })
    }

    /// The key of the command line.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// Loads the keys, and returns them with a shell expression for a dashboard key that does not
    /// show it.
    ///
    /// # Errors
    /// As [`KeyList::parse`] and [`Keys::new`], and if a file cannot be read.
    pub fn load(&self) -> Result<(Arc<Keys>, String)> {
        let mut for_curl = "<your dashboard key>".to_owned();
        for (role, source) in &self.sources {
            if let KeySource::File(path) = source {
                let kind = match role {
                    Role::Dash => "Dashboard",
                    Role::Read => "Read",
                };
                eprintln!("{kind} key: in the file {}", path.display());
                if *role == Role::Dash {
                    for_curl = shell_expression(path, &read(*role, path)?);
                }
            }
        }
        self.versions.lock().read = self.file_versions();
        let keys = Keys::new(self.read()?, &self.command_line)?;
        Ok((Arc::new(keys), for_curl))
    }

    /// Reads the files again and replaces the valid keys; if one is invalid, all keys stay. Returns
    /// the number of keys of each role if they are others.
    pub fn reload(&self, keys: &Keys) -> Option<Vec<(&'static str, u64)>> {
        // One at a time, so that the keys are those of the versions.
        let mut versions = self.versions.lock();
        versions.read = self.file_versions();
        if !self.has_files() {
            info!(
                "The dashboard keys are a setting and stay unchanged; --dash-key-file can be read again"
            );
            return None;
        }
        let replaced = self.read().and_then(|lists| {
            let counts = lists.iter().map(|list| list.count).collect::<Vec<_>>();
            keys.replace(lists).map(|are_others| (are_others, counts))
        });
        match replaced {
            Ok((are_others, counts)) => {
                let mut all = Vec::new();
                for ((role, _), count) in self.sources.iter().zip(counts) {
                    let kind = role.name();
                    info!(keys = count, "Reloaded the {kind} keys: {count} valid");
                    all.push((kind, count as u64));
                }
                are_others.then_some(all)
            }
            Err(error) => {
                error!("The keys stay unchanged: {error}");
                None
            }
        }
    }

    /// Calls `changed` after each change of a file, once the file does not change any more. Never
    /// returns.
    pub async fn follow(self: Arc<Self>, changed: impl Fn() + Send + Sync + 'static) {
        if !self.has_files() {
            return;
        }
        let changed = Arc::new(changed);
        let mut interval = tokio::time::interval(INSPECTION_INTERVAL);
        loop {
            interval.tick().await;
            let (sources, changed) = (self.clone(), changed.clone());
            let inspected = tokio::task::spawn_blocking(move || {
                if sources.has_settled() {
                    changed();
                }
            });
            if inspected.await.is_err() {
                return;
            }
        }
    }

    /// True if the files are others than those that were read, and the same as at the last call.
    fn has_settled(&self) -> bool {
        let now = self.file_versions();
        let mut versions = self.versions.lock();
        let is_settled = now == versions.seen && now != versions.read;
        versions.seen = now;
        is_settled
    }

    fn has_files(&self) -> bool {
        let mut sources = self.sources.iter();
        sources.any(|(_, source)| matches!(source, KeySource::File(_)))
    }

    fn file_versions(&self) -> Vec<FileVersion> {
        let version = |source: &KeySource| match source {
            KeySource::Setting(_) => None,
            KeySource::File(path) => {
                let found = std::fs::metadata(path).ok()?;
                Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
            }
        };
        let sources = self.sources.iter();
        sources.map(|(_, source)| version(source)).collect()
    }

    fn read(&self) -> Result<Vec<KeyList>> {
        let list = |(role, source): &(Role, KeySource)| match source {
            KeySource::Setting(keys) => KeyList::parse(*role, keys),
            KeySource::File(path) => KeyList::parse(*role, &read(*role, path)?)
                .map_err(|error| in_file(*role, path, &error)),
        };
        self.sources.iter().map(list).collect()
    }
}

impl KeySource {
    fn given(setting: Option<&String>, file: Option<&PathBuf>) -> Option<Self> {
        let setting = setting.cloned().map(Self::Setting);
        setting.or_else(|| file.cloned().map(Self::File))
    }
}

/// A shell expression for the first key of a file.
fn shell_expression(path: &Path, content: &str) -> String {
    let quoted = path.display().to_string().replace('\'', r"'\''");
    let has_one_line = content.trim().lines().count() == 1 && !content.contains(',');
    if has_one_line {
        format!("$(cat '{quoted}')")
    } else {
        format!("$(tr -s ', ' '\\n' < '{quoted}' | grep -m 1 .)")
    }
}

fn in_file(role: Role, path: &Path, error: &Error) -> Error {
    Error::bad_input(role.error_code(), format!("{}: {error}", path.display()))
}

/// Reads a file of keys. Warns if others may read it.
fn read(role: Role, path: &Path) -> Result<String> {
    let kind = role.name();
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(Error::bad_input(
            role.error_code(),
            format!(
                "{} is not a file of up to {MAX_FILE_BYTES} bytes with {kind} keys",
                path.display()
            ),
        ));
    }
    if metadata.mode() & GROUP_AND_OTHERS != 0 {
        warn!(
            "Others may read the {kind} keys in {}; chmod 600 it",
            path.display()
        );
    }
    std::fs::read_to_string(path).map_err(Error::io("read", path))
}

/// A key of 256 random bits for a file or folder.
fn random_key(path: &Path) -> Result<String> {
    let mut bits = [0_u8; 32];
    getrandom::fill(&mut bits).map_err(|error| {
        Error::io("generate a key for", path)(std::io::Error::other(error.to_string()))
    })?;
    Ok(hex::encode(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_when_it_does_not_change_any_more() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("keys");
        let write = |content: &str| std::fs::write(&path, content).expect("written");
        write("9f86d081884c7d65");
        let sources = KeySources {
            sources: vec![
                (Role::Dash, KeySource::File(path.clone())),
                (Role::Read, KeySource::Setting("b5d54c39e66671c9".into())),
            ],
            command_line: "f1c0b3a8d5e27496".into(),
            versions: Mutex::default(),
        };
        let (keys, _) = sources.load().expect("two keys");
        assert!(!sources.has_settled() && !sources.has_settled());
        write("9f86d081884c7d65,60303ae22b998861");
        assert!(!sources.has_settled());
        write("9f86d081884c7d65,60303ae22b998861,cd372fb85148700f");
        assert!(!sources.has_settled());
        assert!(sources.has_settled());
        let counts = vec![("dashboard", 3), ("read", 1)];
        assert_eq!(sources.reload(&keys), Some(counts));
        assert_eq!(sources.reload(&keys), None);
        assert!(!sources.has_settled());
        // A file that cannot be used is tried once.
        std::fs::remove_file(&path).expect("removed");
        assert!(!sources.has_settled());
        assert!(sources.has_settled());
        assert_eq!(sources.reload(&keys), None);
        assert!(!sources.has_settled());
    }
}
