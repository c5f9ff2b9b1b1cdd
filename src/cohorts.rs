//! The cohorts that were named: one readable file of the data folder, replaced as a whole.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::metrics::cohort::Cohort;
use crate::store::folder::Folder;

/// Its name in the data folder.
pub const FILE_NAME: &str = "cohorts.json";
/// Cohorts that are kept: a list that a person can still read.
const MAX_COHORTS: usize = 1_000;

/// The cohorts, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cohorts {
    /// Each name once.
    pub cohorts: Vec<Cohort>,
}

impl Cohorts {
    /// Reads them.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file is not what was written.
    pub fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(FILE_NAME)
    }

    /// Gives the file a checksum if an earlier version wrote it.
    ///
    /// # Errors
    /// As [`Cohorts::load`], and if it cannot be written.
    pub fn upgrade(folder: &Folder) -> Result<()> {
        folder.upgrade_json::<Self>(FILE_NAME)
    }

    /// Writes them, durably.
    ///
    /// # Errors
    /// If the file cannot be written; then the old one is still there.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(FILE_NAME, self)
    }

    /// The cohort of that name.
    ///
    /// # Errors
    /// `unknown_cohort`, with the names there are.
    pub fn find(&self, name: &str) -> Result<&Cohort> {
        self.cohorts
            .iter()
            .find(|cohort| cohort.name == name)
            .ok_or_else(|| self.unknown(name))
    }

    /// Keeps a cohort, in the place of one of that name.
    ///
    /// # Errors
    /// `bad_cohort` if there are too many.
    pub fn set(&mut self, cohort: Cohort) -> Result<()> {
        match self
            .cohorts
            .binary_search_by(|known| known.name.cmp(&cohort.name))
        {
            Ok(place) => {
                if let Some(known) = self.cohorts.get_mut(place) {
                    *known = cohort;
                }
            }
            Err(_) if self.cohorts.len() >= MAX_COHORTS => {
                let message = format!(
                    "there are {MAX_COHORTS} cohorts, which is the limit; remove one first"
                );
                return Err(Error::bad_input("bad_cohort", message));
            }
            Err(place) => self.cohorts.insert(place, cohort),
        }
        Ok(())
    }

    /// Forgets a cohort.
    ///
    /// # Errors
    /// `unknown_cohort` if there is none of that name.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let before = self.cohorts.len();
        self.cohorts.retain(|cohort| cohort.name != name);
        match self.cohorts.len() < before {
            true => Ok(()),
            false => Err(self.unknown(name)),
        }
    }

    /// Takes users out of the lists. Returns how many lists had one of them.
    pub fn forget(&mut self, users: &[String]) -> usize {
        let lists = self
            .cohorts
            .iter_mut()
            .filter_map(|cohort| cohort.users.as_mut());
        lists
            .filter_map(|list| {
                let before = list.len();
                list.retain(|user| !users.contains(user));
                (list.len() < before).then_some(())
            })
            .count()
    }

    fn unknown(&self, name: &str) -> Error {
        let name: String = name.chars().take(100).collect();
        let names = self
            .cohorts
            .iter()
            .take(20)
            .map(|cohort| cohort.name.as_str());
        let names: Vec<&str> = names.collect();
        let known = match names.is_empty() {
            true => "none was named yet".to_owned(),
            false => format!("there are {}", names.join(", ")),
        };
        Error::bad_input(
            "unknown_cohort",
            format!("there is no cohort {name:?}; {known}"),
        )
    }
}
