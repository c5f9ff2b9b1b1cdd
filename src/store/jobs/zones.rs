//! Reporting zones: those that are added get states from the events that are kept, and those that
//! are no longer listed lose them.
//!
//! A new zone is committed without states, from the day after the newest segment on: later events
//! are added by seals. The older days of UTC are added one by one, the newest first, each by one
//! commit, so that a crash loses one day of work and a seal waits for one day at most. Until then
//! queries that need older days read events. No erasure runs meanwhile, or is pending: its events
//! may still be in segments after they left the states.

use chrono::NaiveDate;
use chrono_tz::Tz;
use tracing::{info, warn};

use super::Store;
use super::erase::Erasures;
use crate::daily::{Day, date};
use crate::error::Result;
use crate::store::files::folder::Folder;
use crate::store::version::zone::ZoneStates;
use crate::store::version::{Transaction, Version, VersionControl};

/// The next part of the work on new zones.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// These zones get the events of a day of UTC.
    Include(Day, Vec<Tz>),
    /// These zones have all events.
    End(Vec<Tz>),
}

/// The next step, if there is one: the newest day that is not included in all zones.
fn plan(version: &Version) -> Option<Step> {
    let building = version.zones.iter();
    let building = building.filter(|zone| zone.included_from.is_some());
    let next_day = |zone: &&ZoneStates| {
        let days = version.segments.iter().map(|segment| segment.day());
        days.filter(|&day| !zone.includes(day)).max()
    };
    let ended = building.clone().filter(|zone| next_day(zone).is_none());
    let ended: Vec<Tz> = ended.map(|zone| zone.tz).collect();
    if !ended.is_empty() {
        return Some(Step::End(ended));
    }
    let day = building.clone().filter_map(|zone| next_day(&zone)).max()?;
    let behind = building.filter(|zone| next_day(zone) == Some(day));
    Some(Step::Include(day, behind.map(|zone| zone.tz).collect()))
}

/// Adds the zones that a version does not have, and begins again with those whose rules have
/// changed for days that were counted. Returns whether there were any.
fn add_missing(version: &mut Version, zones: &[Tz]) -> bool {
    let raw_from = version.expiry.raw_from;
    let outdated = version
        .zones
        .extract_if(.., |zone| zone.has_outdated(raw_from));
    let outdated: Vec<Tz> = outdated.map(|zone| zone.tz).collect();
    for tz in &outdated {
        warn!(
            "The rules of the time zone {tz} have changed for days that were counted: its daily states are made again \
             from the events that are kept"
        );
    }
    let missing = zones.iter().filter(|tz| version.zone(**tz).is_none());
    let missing: Vec<Tz> = missing.copied().collect();
    let last_day = version.segments.iter().map(|segment| segment.day()).max();
    for &tz in &missing {
        let mut zone = ZoneStates::new(tz, last_day);
        if last_day.is_none() {
            zone.end_coverage(raw_from);
        }
        version.zones.push(zone);
    }
    !missing.is_empty()
}

/// Commits the zones that the store has no states of.
///
/// # Errors
/// If the manifest cannot be replaced.
pub fn add_zones(versions: &VersionControl, folder: &Folder) -> Result<()> {
    let mut transaction = versions.begin(folder)?;
    if add_missing(&mut transaction.next, versions.zones()) {
        transaction.commit(|_| {})?.removed?;
    }
    Ok(())
}

impl Store {
    /// Removes the states of zones that are not listed.
    ///
    /// # Errors
    /// If the manifest cannot be replaced or a file cannot be removed.
    pub fn keep_zones(&self, listed: &[Tz]) -> Result<()> {
        let mut transaction = self.begin()?;
        let zones = &mut transaction.next.zones;
        let removed: Vec<ZoneStates> = zones
            .extract_if(.., |zone| !listed.contains(&zone.tz))
            .collect();
        if removed.is_empty() {
            return Ok(());
        }
        let committed = transaction.commit(|_| {})?;
        for zone in removed {
            let states = zone.states.len();
            info!(states, "Removed the {states} daily states of {}", zone.tz);
        }
        committed.removed
    }

    /// Makes the states of new zones, until they include all events.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if a segment is: then the zones stay without its day and
    /// older ones.
    pub fn build_zones(&self) -> Result<()> {
        while plan(&self.versions.version()).is_some() {
            let _no_erasure = self.jobs.erasure.wait_to_keep_out();
            if Erasures::is_pending(&self.folder)? {
                return Ok(());
            }
            let transaction = self.begin()?;
            match plan(transaction.base()) {
                None => {}
                Some(Step::Include(day, zones)) => self.include_day(transaction, day, &zones)?,
                Some(Step::End(zones)) => end(transaction, &zones)?,
            }
        }
        Ok(())
    }

    fn include_day(&self, mut transaction: Transaction<'_>, day: Day, zones: &[Tz]) -> Result<()> {
        let slices = self.day_slices(transaction.base(), day, &[])?;
        let states = zones.iter();
        let states = states.flat_map(|tz| self.of_zone(&slices, *tz, |_| true));
        let states = states.collect();
        transaction.next.sequence += 1;
        self.add_to_states(&mut transaction, states)?;
        let raw_from = transaction.base().expiry.raw_from;
        for tz in zones {
            if let Some(zone) = transaction.next.zone_mut(*tz) {
                // Late events of a day whose other events have expired.
                if raw_from.is_some_and(|raw_from| date(day) < raw_from) {
                    zone.end_coverage(raw_from);
                }
                zone.included_from = Some(date(day));
            }
        }
        transaction.commit(|_| {})?.removed
    }
}

/// Commits that zones have all events.
fn end(mut transaction: Transaction<'_>, zones: &[Tz]) -> Result<()> {
    let raw_from = transaction.base().expiry.raw_from;
    let mut ended: Vec<(Tz, Option<NaiveDate>)> = Vec::new();
    for tz in zones {
        if let Some(zone) = transaction.next.zone_mut(*tz) {
            zone.end_coverage(raw_from);
            zone.included_from = None;
            ended.push((*tz, zone.covered_from));
        }
    }
    let committed = transaction.commit(|_| {})?;
    for (tz, covered_from) in ended {
        match covered_from {
            None => info!("The daily states of {tz} are complete"),
            Some(day) => info!("The daily states of {tz} are complete from {day} on"),
        }
    }
    committed.removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::states::StateFile;
    use crate::window::{self, HOUR_US};

    const BERLIN: Tz = Tz::Europe__Berlin;
    const APIA: Tz = Tz::Pacific__Apia;

    /// The zones of a version with the first day of UTC that each includes, and its first complete
    /// day.
    fn zones(version: &Version) -> Vec<(Tz, Option<NaiveDate>, Option<NaiveDate>)> {
        let zones = version.zones.iter();
        zones
            .map(|zone| (zone.tz, zone.included_from, zone.first_complete_day()))
            .collect()
    }

    #[test]
    fn days_are_included_from_the_newest_to_the_oldest() {
        let mut version = Version::with(&[10, 20, 20, 30], &[10, 20, 30]);
        assert!(add_missing(&mut version, &[BERLIN]));
        assert!(!add_missing(&mut version, &[BERLIN]), "once");
        // The first complete day of Berlin begins at 23:00 UTC of the day before.
        let first = |day| Some(date(day));
        assert_eq!(zones(&version), [(BERLIN, first(31), first(32))]);
        assert_eq!(plan(&version), Some(Step::Include(30, vec![BERLIN])));
        version.zones[0].included_from = first(30);
        assert!(version.zones[0].includes(30) && !version.zones[0].includes(29));
        // Another zone catches up before both go on.
        assert!(add_missing(&mut version, &[BERLIN, APIA]));
        assert_eq!(plan(&version), Some(Step::Include(30, vec![APIA])));
        version.zones[1].included_from = first(30);
        assert_eq!(plan(&version), Some(Step::Include(20, vec![BERLIN, APIA])));
        version.zones[0].included_from = first(10);
        version.zones[1].included_from = None;
        assert_eq!(plan(&version), Some(Step::End(vec![BERLIN])));
        version.zones[0].included_from = None;
        assert_eq!(plan(&version), None);
    }

    #[test]
    fn coverage_begins_with_the_events_that_are_kept() {
        let mut version = Version::with(&[10, 20], &[1, 10, 20]);
        version.expiry.raw_from = Some(date(10));
        add_missing(&mut version, &[BERLIN]);
        let zone = &mut version.zones[0];
        zone.included_from = Some(date(20));
        zone.end_coverage(Some(date(10)));
        zone.included_from = None;
        assert_eq!(zones(&version), [(BERLIN, None, Some(date(11)))]);
        // A store whose events have all expired, and one without any.
        let mut version = Version::with(&[], &[1]);
        version.expiry.raw_from = Some(date(10));
        add_missing(&mut version, &[BERLIN]);
        assert_eq!(zones(&version), [(BERLIN, None, Some(date(11)))]);
        let mut version = Version::with(&[], &[]);
        add_missing(&mut version, &[BERLIN]);
        assert_eq!(zones(&version), [(BERLIN, None, None)]);
    }

    #[test]
    fn states_by_other_rules_of_a_zone_are_made_again_where_events_are_kept() {
        let mut version = Version::with(&[10, 20], &[10, 20]);
        add_missing(&mut version, &[BERLIN]);
        let states = version.states.clone();
        let zone = &mut version.zones[0];
        zone.included_from = None;
        for (day, state) in states {
            let mut meta = state.meta.clone();
            meta.span_us = Some(window::day_us(date(day), BERLIN));
            let state = StateFile::new("nowhere".as_ref(), meta);
            zone.states.insert(day, state.into());
        }
        assert!(!add_missing(&mut version, &[BERLIN]), "the same rules");
        let state = version.zones[0].states[&20].clone();
        let mut meta = state.meta.clone();
        meta.span_us = meta.span_us.map(|span| span.start + HOUR_US..span.end);
        let outdated = StateFile::new("nowhere".as_ref(), meta);
        version.zones[0].states.insert(20, outdated.into());
        // Its events have expired: it is the best that is known.
        version.expiry.raw_from = Some(date(21));
        assert!(!add_missing(&mut version, &[BERLIN]));
        version.expiry.raw_from = Some(date(5));
        assert!(add_missing(&mut version, &[BERLIN]));
        assert!(version.zones[0].states.is_empty());
        assert_eq!(version.zones[0].included_from, Some(date(21)));
    }
}
