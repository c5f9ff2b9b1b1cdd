//! The clock, compared with the newest event and with time synchronization, and the time zone
//! database.

use std::path::Path;

use crate::window::utc_string;
use chrono::{DateTime, Datelike, TimeDelta, Utc};

use super::Finding;
use super::folder::Folder;

/// The file that systemd-timesyncd creates when it has set the clock.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";
/// Sockets of other time servers, which keep the clock right by themselves.
const TIME_SERVERS: [(&str, &str); 2] = [
    ("/run/chrony/chronyd.sock", "chrony"),
    ("/run/ntpd.sock", "ntpd"),
];
/// A clock before this year was never set.
const FIRST_YEAR: i32 = 2020;
/// Years after which a time zone database is old: rules change several times a year somewhere.
const OLD_YEARS: i32 = 2;

/// The findings about time.
pub fn findings(folder: &Folder, now: DateTime<Utc>) -> Vec<Finding> {
    let newest = folder.inspected().and_then(|found| found.newest_us);
    let newest = newest.and_then(DateTime::from_timestamp_micros);
    vec![clock(newest, now), synchronization(), zones(now.year())]
}

fn clock(newest: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Finding {
    const CHECK: &str = "clock";
    let found = match newest {
        Some(newest) => format!(
            "{}, newest sealed event {}",
            utc_string(now),
            utc_string(newest)
        ),
        None => utc_string(now),
    };
    let behind = newest.map_or(TimeDelta::zero(), |newest| newest - now);
    if now.year() < FIRST_YEAR || behind > TimeDelta::hours(1) {
        return Finding::fails(
            CHECK,
            found,
            "No event is accepted (503 clock) until the clock is right. Set it, and use time synchronization.",
        );
    }
    if behind < -TimeDelta::days(30) {
        return Finding::warning(
            CHECK,
            found,
            "If the server did not run for 30 days, no event is accepted until the clock is confirmed: echopilot \
             expire --confirm-date DATE.",
        );
    }
    Finding::ok(CHECK, found)
}

fn synchronization() -> Finding {
    const CHECK: &str = "time server";
    if Path::new(SYNCHRONIZED).exists() {
        return Finding::ok(CHECK, "systemd-timesyncd has set the clock");
    }
    let runs = TIME_SERVERS
        .iter()
        .find(|(socket, _)| Path::new(socket).exists());
    match runs {
        Some((_, name)) => Finding::ok(CHECK, format!("{name} runs")),
        None => Finding::ok(
            CHECK,
            "none was found here; the host of a virtual machine or container may have one",
        ),
    }
}

fn zones(year: i32) -> Finding {
    const CHECK: &str = "time zones";
    let version = chrono_tz::IANA_TZDB_VERSION;
    let found = format!("database {version}, in the program");
    let of: Option<i32> = version.get(..4).and_then(|year| year.parse().ok());
    match of {
        Some(of) if year - of > OLD_YEARS => Finding::warning(
            CHECK,
            found,
            "Zones whose rules have changed since are counted by the old ones. Use a newer program.",
        ),
        _ => Finding::ok(CHECK, found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn a_clock_that_the_store_would_not_trust_is_found() {
        let now: DateTime<Utc> = "2026-11-26T10:00:00Z".parse().expect("a time");
        let outcome = |behind: TimeDelta| clock(Some(now + behind), now).outcome;
        assert_eq!(clock(None, now).outcome, Outcome::Ok);
        assert_eq!(outcome(TimeDelta::minutes(59)), Outcome::Ok);
        assert_eq!(outcome(TimeDelta::minutes(61)), Outcome::Fails);
        assert_eq!(outcome(-TimeDelta::days(29)), Outcome::Ok);
        assert_eq!(outcome(-TimeDelta::days(31)), Outcome::Warning);
        let unset = "1970-01-02T00:00:00Z".parse().expect("a time");
        assert_eq!(clock(None, unset).outcome, Outcome::Fails);
    }

    #[test]
    fn an_old_time_zone_database_is_a_warning() {
        let version: i32 = chrono_tz::IANA_TZDB_VERSION[..4].parse().expect("a year");
        assert_eq!(zones(version + 2).outcome, Outcome::Ok);
        assert_eq!(zones(version + 3).outcome, Outcome::Warning);
    }
}
