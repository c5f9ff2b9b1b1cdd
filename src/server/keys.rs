//! Where the dashboard keys come from, and how they are read again.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::{error, info, warn};

use crate::config::ServeConfig;
use crate::error::{Error, Result};
use crate::http::DashKeys;
use crate::store::folder::Folder;

/// The dashboard key's file in the data folder.
const KEY_FILE: &str = "dash_key";
/// Permissions of others than the owner.
const OF_OTHERS: u32 = 0o077;
/// Bytes of a file of keys; a larger one is another file.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Where the keys come from.
pub enum KeySource {
    /// A setting, which stays as it is until a restart.
    Setting(String),
    /// A file.
    File(PathBuf),
}

impl KeySource {
    /// What the settings say; without any the file in the data folder, which is made if it is not there.
    ///
    /// # Errors
    /// If that file cannot be made.
    pub fn new(config: &ServeConfig, folder: &Folder) -> Result<Self> {
        if let Some(keys) = &config.dash_key {
            return Ok(Self::Setting(keys.clone()));
        }
        if let Some(file) = &config.dash_key_file {
            return Ok(Self::File(file.clone()));
        }
        let path = folder.path().join(KEY_FILE);
        if !path.exists() {
            make_key(folder, &path)?;
        }
        Ok(Self::File(path))
    }

    /// The valid keys, and how a shell writes one without showing it.
    ///
    /// # Errors
    /// As [`DashKeys::parse`], and if the file cannot be read.
    pub fn load(&self) -> Result<(DashKeys, String)> {
        match self {
            Self::Setting(keys) => Ok((DashKeys::parse(keys)?, "<your dashboard key>".into())),
            Self::File(path) => {
                eprintln!("Dashboard key: in the file {}", path.display());
                let text = read(path)?;
                let keys = DashKeys::parse(&text).map_err(|error| of_file(path, error))?;
                let quoted = path.display().to_string().replace('\'', r"'\''");
                let has_one_line = text.trim().lines().count() == 1 && !text.contains(',');
                let for_curl = match has_one_line {
                    true => format!("$(cat '{quoted}')"),
                    false => format!("$(tr -s ', ' '\\n' < '{quoted}' | grep -m 1 .)"),
                };
                Ok((keys, for_curl))
            }
        }
    }

    /// Reads the file again and puts its keys in the place of those that are valid; if they are not right, those stay.
    pub fn reload(&self, keys: &DashKeys) {
        let path = match self {
            Self::Setting(_) => {
                info!(
                    "The dashboard keys are a setting and stay as they are; --dash-key-file can be read again"
                );
                return;
            }
            Self::File(path) => path,
        };
        let read = read(path)
            .and_then(|text| DashKeys::parse(&text).map_err(|error| of_file(path, error)));
        match read {
            Ok(new) => {
                let count = new.count();
                keys.replace(new);
                info!(keys = count, "Read the dashboard keys again: {count} valid");
            }
            Err(error) => error!("The dashboard keys stay as they are: {error}"),
        }
    }
}

fn of_file(path: &Path, error: Error) -> Error {
    Error::bad_input("bad_dash_key", format!("{}: {error}", path.display()))
}

/// The text of a file of keys. Warns if others may read it.
fn read(path: &Path) -> Result<String> {
    let facts = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if !facts.is_file() || facts.len() > MAX_FILE_BYTES {
        return Err(Error::bad_input(
            "bad_dash_key",
            format!(
                "{} is no file of up to {MAX_FILE_BYTES} bytes with dashboard keys",
                path.display()
            ),
        ));
    }
    if facts.mode() & OF_OTHERS != 0 {
        warn!(
            "Others may read the dashboard keys in {}; chmod 600 it",
            path.display()
        );
    }
    std::fs::read_to_string(path).map_err(Error::io("read", path))
}

/// Makes a key of 256 random bits, in a file that only its owner can read and that is never half-written.
fn make_key(folder: &Folder, path: &Path) -> Result<()> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| {
        Error::io("make a key for", path)(std::io::Error::other(error.to_string()))
    })?;
    let key: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.replace(KEY_FILE, format!("{key}\n").as_bytes())
}
