//! Renumbering: once most codes of users are without a user, because all data of these has expired
//! or was erased, the others get the codes from 0 on, in the same order. So the dictionary takes as
//! much space as its users, however many there were before.
//!
//! A start does it, before events have codes in memory: the states and the dictionary are written
//! with the new codes, and the manifest that names both is the commit. Columns, which have the
//! old codes, are removed before; they are made again.

use std::collections::VecDeque;

use tracing::{info, warn};

use crate::dictionary::Dictionaries;
use crate::error::{Error, Result};
use crate::links::Links;
use crate::store::files::folder::Folder;
use crate::store::files::{columns, dictionary};
use crate::store::version::VersionControl;

/// Fewest codes without a user that are worth writing all states again.
pub const MIN_FREE: usize = 100_000;

/// True if codes should be assigned again: more are free than in use, and at least `min_free`.
fn is_due(codes: usize, users: usize, min_free: usize) -> bool {
    let free = codes.saturating_sub(users);
    free > users && free >= min_free
}

/// Assigns the codes again if at least `min_free` and most of them are without a user. No event may
/// be in memory.
///
/// # Errors
/// If a file cannot be written, or a state is damaged; then all codes are as before.
pub fn renumber_users(
    versions: &VersionControl,
    folder: &Folder,
    names: &Dictionaries,
    min_free: usize,
) -> Result<()> {
    let users = &names.users;
    if !is_due(users.len(), users.ids(), min_free) {
        return Ok(());
    }
    let mut transaction = versions.begin(folder)?;
    let (codes, mut live) = (users.len() as u32, 0);
    let new_codes = (0..codes).map(|code| {
        let has_id = users.has_id(code);
        let new = has_id.then_some(live);
        live += u32::from(has_id);
        new
    });
    let new_codes: Vec<Option<u32>> = new_codes.collect();
    columns::remove_others(folder, &[])?;
    transaction.next.sequence += 1;
    let mut files: VecDeque<_> = transaction.base().zone_days().collect();
    transaction.write_states(names, |_| {
        let Some((day, file)) = files.pop_front() else {
            return Ok(None);
        };
        let mut state = file.state(names)?;
        if !state.renumber(&new_codes) {
            let message = format!("the state of {} has a user without an id", day.date());
            return Err(Error::Query(message.into()));
        }
        Ok(Some((day, state)))
    })?;
    if transaction.base().links.meta.is_some() {
        let mut links = Links::clone(&transaction.base().links.links);
        links.renumber(&new_codes);
        transaction.write_links(links)?;
    }
    transaction.next.dictionary = dictionary::renumber(folder, transaction.base().dictionary)?;
    let meta = transaction.next.dictionary;
    let committed = transaction.commit(|_| {})?;
    dictionary::load(folder.path(), meta, users)?;
    info!("Assigned the codes of {live} users again: {codes} were in use at some time");
    if let Err(error) = committed.removed {
        warn!("A file that was replaced is still there and will be removed later: {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_once_most_codes_are_free() {
        assert!(is_due(10, 4, 0) && !is_due(10, 5, 0) && !is_due(10, 10, 0));
        assert!(is_due(300_000, 100_000, MIN_FREE) && !is_due(150_000, 60_000, MIN_FREE));
        assert!(!is_due(0, 0, 0));
    }
}
