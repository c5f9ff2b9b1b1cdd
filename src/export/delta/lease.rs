//! The lease of a shared table: of the servers that publish to it, the one that has the lease joins
//! the files of days that are over.
//!
//! A lease is a file with a number, created only if there is none with that name, and it ends at a
//! time. The next one has the next number. No result depends on it: a commit of a joined day
//! succeeds only while all files that it joins belong to the table, and no commit of a later lease
//! was made. The lease saves the work of joining a day twice.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::export::destination::{Created, Destination};

/// The folder of leases, in the folder of the table. Readers ignore a name that begins so.
const LEASE_DIR: &str = "_lease";
/// Time for which a server has a lease. A server that was killed delays the joining of days by it.
const LEASE_MS: i64 = 5 * 60 * 1_000;
/// Difference of the clocks of two servers up to which a lease is not taken before its end.
const CLOCK_SKEW_MS: i64 = 2 * 60 * 1_000;

/// A lease that this server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its number: the fence of commits under it.
    pub number: u64,
    ends_at: i64,
}

/// The content of a lease.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    server: String,
    /// In ms since 1970.
    ends_at: i64,
}

impl Lease {
    /// The lease of a table: the one that this server has, extended if half of its time is over, or
    /// the next one, if the last one has ended. None if another server has it. `held` is the one
    /// that this process took before. Times are in ms since 1970.
    ///
    /// # Errors
    /// If the destination cannot be read or written.
    pub fn take(
        to: &Destination,
        table: &str,
        server: &str,
        held: Option<Self>,
        now: i64,
    ) -> Result<Option<Self>> {
        if let Some(held) = held.filter(|held| now < held.ends_at - LEASE_MS / 2) {
            return Ok(Some(held));
        }
        let dir = format!("{table}/{LEASE_DIR}");
        let last = last(to, &dir)?;
        if let Some(number) = last {
            // One that cannot be read was written by a later version, and ends with its number.
            let content = to.read(&path(&dir, number))?.unwrap_or_default();
            let content = serde_json::from_slice::<Content>(&content).ok();
            let is_held = held.is_some_and(|held| held.number == number);
            let is_over = content.is_none_or(|content| {
                // After a restart a server goes on with its own lease.
                content.server == server || content.ends_at + CLOCK_SKEW_MS <= now
            });
            if !is_held && !is_over {
                return Ok(None);
            }
        }
        let next = Self {
            number: last.map_or(1, |number| number + 1),
            ends_at: now + LEASE_MS,
        };
        let content = Content {
            server: server.to_owned(),
            ends_at: next.ends_at,
        };
        // Writing to memory cannot fail.
        let content = serde_json::to_vec(&content).unwrap_or_default();
        // Taken may also be an earlier request whose response was lost: the next attempt finds out.
        if to.create(&path(&dir, next.number), &content)? == Created::Taken {
            return Ok(None);
        }
        for old in to.list(&dir)?.into_keys() {
            match number_of(&old) {
                // Another server was faster, and has removed the name that was taken here.
                Some(number) if number > next.number => return Ok(None),
                Some(number) if number < next.number => to.remove(&old)?,
                _ => {}
            }
        }
        Ok(Some(next))
    }
}

fn path(dir: &str, number: u64) -> String {
    format!("{dir}/{number:020}.json")
}

fn number_of(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?;
    name.strip_suffix(".json")?.parse().ok()
}

/// The number of the last lease.
fn last(to: &Destination, dir: &str) -> Result<Option<u64>> {
    let found = to.list(dir)?.into_keys();
    Ok(found.filter_map(|path| number_of(&path)).max())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::destination::{Readers, Root};

    #[test]
    fn one_server_has_the_lease_until_it_ends() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let to = Destination::Folder(Root {
            path: dir.path().to_owned(),
            readers: Readers::ByUmask,
        });
        let take = |server: &str, held, now| Lease::take(&to, "events", server, held, now);
        let first = take("a", None, 0)?;
        assert_eq!(first.map(|lease| lease.number), Some(1));
        assert_eq!(take("b", None, 0)?, None);
        assert_eq!(take("a", first, LEASE_MS / 2 - 1)?, first);
        let extended = take("a", first, LEASE_MS / 2)?;
        assert_eq!(extended.map(|lease| lease.number), Some(2));
        let end = LEASE_MS / 2 + LEASE_MS;
        assert_eq!(take("b", None, end + CLOCK_SKEW_MS - 1)?, None);
        let of_b = take("b", None, end + CLOCK_SKEW_MS)?;
        assert_eq!(of_b.map(|lease| lease.number), Some(3));
        // The first one learns of it when it extends its lease.
        assert_eq!(take("a", extended, end + CLOCK_SKEW_MS)?, None);
        // A server that was restarted goes on.
        let again = take("b", None, end + CLOCK_SKEW_MS)?;
        assert_eq!(again.map(|lease| lease.number), Some(4));
        assert_eq!(to.list("events/_lease")?.len(), 1);
        Ok(())
    }
}
