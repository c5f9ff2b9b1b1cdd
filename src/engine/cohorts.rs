//! The named cohorts.

use super::Engine;
use crate::cohorts::Cohorts;
use crate::error::{Error, ErrorCode, Result};
use crate::metrics::cohort::Cohort;

impl Engine {
    /// All cohorts, sorted by name.
    ///
    /// # Errors
    /// As [`Cohorts::load`].
    pub fn cohorts(&self) -> Result<Cohorts> {
        Cohorts::load(self.store.folder())
    }

    /// Creates or replaces a cohort.
    ///
    /// # Errors
    /// `bad_cohort` if it is wrong or there are too many, and if it cannot be written.
    pub fn set_cohort(&self, cohort: Cohort) -> Result<Cohorts> {
        cohort
            .check()
            .map_err(|message| Error::bad_input(ErrorCode::BadCohort, message))?;
        self.change_cohorts(|cohorts| cohorts.set(cohort))
    }

    /// Removes a cohort.
    ///
    /// # Errors
    /// `unknown_cohort` if there is none of that name, and if it cannot be written.
    pub fn remove_cohort(&self, name: &str) -> Result<Cohorts> {
        self.change_cohorts(|cohorts| cohorts.remove(name))
    }

    pub(super) fn change_cohorts(
        &self,
        change: impl FnOnce(&mut Cohorts) -> Result<()>,
    ) -> Result<Cohorts> {
        // One at a time: the second of two would undo the first.
        let _one = self.cohorts.lock();
        let mut cohorts = self.cohorts()?;
        change(&mut cohorts)?;
        cohorts.save(self.store.folder())?;
        Ok(cohorts)
    }
}
