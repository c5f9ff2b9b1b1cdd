//! The named cohorts: one readable file in the data folder, replaced atomically.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result, first_chars};
use crate::metrics::cohort::Cohort;
use crate::store::folder::Folder;
use crate::store::inspect;

/// Its name in the data folder.
pub const FILE_NAME: &str = "cohorts.json";
/// Most cohorts: a list that a person can still read.
const MAX_COHORTS: usize = 1_000;

/// The cohorts, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cohorts {
    /// Sorted by name, each name once.
    pub cohorts: Vec<Cohort>,
}

impl Cohorts {
    /// Reads the cohorts.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file does not match its checksum.
    pub fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(FILE_NAME)
    }

    /// Reads the cohorts of a data folder that another process may have locked.
    ///
    /// # Errors
    /// As [`Cohorts::load`].
    pub fn of_folder(root: &Path) -> Result<Self> {
        inspect::read_json(&root.join(FILE_NAME))
    }

    /// Adds a checksum to the file of an earlier version.
    ///
    /// # Errors
    /// As [`Cohorts::load`], and if it cannot be written.
    pub fn upgrade(folder: &Folder) -> Result<()> {
        folder.upgrade_json::<Self>(FILE_NAME)
    }

    /// Writes the cohorts, durably.
    ///
    /// # Errors
    /// If the file cannot be written; then the old one is unchanged.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(FILE_NAME, self)
    }

    /// The cohort of that name.
    ///
    /// # Errors
    /// `unknown_cohort`, with the existing names.
    pub fn find(&self, name: &str) -> Result<&Cohort> {
        self.cohorts
            .iter()
            .find(|cohort| cohort.name == name)
            .ok_or_else(|| self.unknown(name))
    }

    /// Creates or replaces a cohort.
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
                return Err(Error::bad_input(ErrorCode::BadCohort, message));
            }
            Err(place) => self.cohorts.insert(place, cohort),
        }
        Ok(())
    }

    /// Removes a cohort.
    ///
    /// # Errors
    /// `unknown_cohort` if none has that name.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let before = self.cohorts.len();
        self.cohorts.retain(|cohort| cohort.name != name);
        if self.cohorts.len() == before {
            return Err(self.unknown(name));
        }
        Ok(())
    }

    /// Removes users from the lists. Returns the number of lists that had one of them.
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
        let name = first_chars(name, 100);
        let names = self
            .cohorts
            .iter()
            .take(20)
            .map(|cohort| cohort.name.as_str());
        let names: Vec<&str> = names.collect();
        let known = if names.is_empty() {
            "no cohorts are defined".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        };
        Error::bad_input(
            ErrorCode::UnknownCohort,
            format!("there is no cohort {name:?}; {known}"),
        )
    }
}
