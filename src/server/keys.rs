//! The source of the dashboard keys: a setting, or a file that can be read again.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::{error, info, warn};

use crate::config::ServeConfig;
use crate::error::{Error, ErrorCode, Result};
use crate::http::DashKeys;
use crate::store::folder::Folder;

/// The dashboard key's file in the data folder.
const KEY_FILE: &str = "dash_key";
/// Permission bits of group and others.
const GROUP_AND_OTHERS: u32 = 0o077;
/// Most bytes of a file of keys; a larger file is not one.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The source of the keys.
pub enum KeySource {
    /// A setting, which is constant until a restart.
    Setting(String),
    /// A file.
    File(PathBuf),
}

impl KeySource {
    /// The source in the settings, or else the file in the data folder, which is created if it does
    /// not exist.
    ///
    /// # Errors
    /// If that file cannot be created.
    pub fn new(config: &ServeConfig, folder: &Folder) -> Result<Self> {
        if let Some(keys) = &config.dash_key {
            return Ok(Self::Setting(keys.clone()));
        }
        if let Some(file) = &config.dash_key_file {
            return Ok(Self::File(file.clone()));
        }
        let path = folder.path().join(KEY_FILE);
        if !path.exists() {
            create_key(folder, &path)?;
        }
        Ok(Self::File(path))
    }

    /// Loads the keys, and returns them with a shell expression for one that does not show it.
    ///
    /// # Errors
    /// As [`DashKeys::parse`], and if the file cannot be read.
    pub fn load(&self) -> Result<(DashKeys, String)> {
        match self {
            Self::Setting(keys) => Ok((DashKeys::parse(keys)?, "<your dashboard key>".into())),
            Self::File(path) => {
                eprintln!("Dashboard key: in the file {}", path.display());
                let content = read(path)?;
                let keys = DashKeys::parse(&content).map_err(|error| in_file(path, error))?;
                let quoted = path.display().to_string().replace('\'', r"'\''");
                let has_one_line = content.trim().lines().count() == 1 && !content.contains(',');
                let for_curl = if has_one_line {
                    format!("$(cat '{quoted}')")
                } else {
                    format!("$(tr -s ', ' '\\n' < '{quoted}' | grep -m 1 .)")
                };
                Ok((keys, for_curl))
            }
        }
    }

    /// Reads the file again and replaces the valid keys; if the new ones are invalid, the old ones
    /// stay.
    pub fn reload(&self, keys: &DashKeys) {
        let path = match self {
            Self::Setting(_) => {
                info!(
                    "The dashboard keys are a setting and stay unchanged; --dash-key-file can be read again"
                );
                return;
            }
            Self::File(path) => path,
        };
        let read = read(path)
            .and_then(|content| DashKeys::parse(&content).map_err(|error| in_file(path, error)));
        match read {
            Ok(new) => {
                let count = new.count();
                keys.replace(new);
                info!(keys = count, "Reloaded the dashboard keys: {count} valid");
            }
            Err(error) => error!("The dashboard keys stay unchanged: {error}"),
        }
    }
}

fn in_file(path: &Path, error: Error) -> Error {
    Error::bad_input(
        ErrorCode::BadDashKey,
        format!("{}: {error}", path.display()),
    )
}

/// Reads a file of keys. Warns if others may read it.
fn read(path: &Path) -> Result<String> {
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(Error::bad_input(
            ErrorCode::BadDashKey,
            format!(
                "{} is not a file of up to {MAX_FILE_BYTES} bytes with dashboard keys",
                path.display()
            ),
        ));
    }
    if metadata.mode() & GROUP_AND_OTHERS != 0 {
        warn!(
            "Others may read the dashboard keys in {}; chmod 600 it",
            path.display()
        );
    }
    std::fs::read_to_string(path).map_err(Error::io("read", path))
}

/// Creates a key of 256 random bits in a file that only its owner can read and that is never
/// incomplete.
fn create_key(folder: &Folder, path: &Path) -> Result<()> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| {
        Error::io("generate a key for", path)(std::io::Error::other(error.to_string()))
    })?;
    let key: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.replace(KEY_FILE, format!("{key}\n").as_bytes())
}
