//! Names of the files and folders of the store. Files with other names belong to other programs
//! and are never changed or removed.

use chrono::NaiveDate;
use chrono_tz::Tz;

/// Folder of unfinished files. It is in the data folder, and so on its file system, so that a
/// rename publishes them.
pub const TEMP_DIR: &str = ".echopilot-tmp";
/// The open event log.
pub const EVENT_LOG_FILE: &str = "analytics_events.ndjson";
/// The next event log, while a rotation prepares it.
pub const NEXT_LOG_FILE: &str = "analytics_events.next.ndjson";
/// The manifest.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Damaged pieces of logs.
pub const QUARANTINE_FILE: &str = "quarantine.ndjson";
/// Held events: those that a tracking plan quarantines.
pub const HELD_EVENTS_FILE: &str = "held_events.ndjson";
/// The audit log.
pub const AUDIT_FILE: &str = "audit.ndjson";
/// The audit log before it was full.
pub const OLD_AUDIT_FILE: &str = "audit.old.ndjson";
/// The erased users.
pub const ERASURES_FILE: &str = "erasures.json";
/// The state of the engine's own alerts.
pub const ALERTS_FILE: &str = "engine_alerts.json";
/// The table that the store shares with other servers.
pub const PUBLICATION_FILE: &str = "publication.json";
/// The newest table of links between ids.
pub const LINKS_TABLE: &str = "links.parquet";
/// Folder in which day folders are prepared.
pub const COMPACTING_DIR: &str = "compacting";

/// Least number of digits of a number in a name.
const DIGITS: usize = 8;

/// True for a number as names have it, such as `00000012`.
fn is_number(string: &str) -> bool {
    string.len() >= DIGITS && is_digits(string) && string.parse::<u64>().is_ok()
}

fn is_digits(string: &str) -> bool {
    !string.is_empty() && string.bytes().all(|byte| byte.is_ascii_digit())
}

/// Parses a day as names have it, such as `2026-11-26`.
pub fn day(string: &str) -> Option<NaiveDate> {
    let day = NaiveDate::parse_from_str(string, "%Y-%m-%d").ok()?;
    (day.to_string() == string).then_some(day)
}

/// True for a day folder of the lake: `dt=2026-11-26`.
pub fn is_day_folder(name: &str) -> bool {
    name.strip_prefix("dt=")
        .is_some_and(|rest| day(rest).is_some())
}

/// True for a segment: `00000012-0003.parquet` of a seal or a load,
/// `00000012-0003-00000017.parquet` of a compaction or an erasure that replaced it and keeps its
/// position in the order of names. Earlier versions named the latter `00000017-m.parquet` and
/// `00000017-e0.parquet`.
pub fn is_segment(name: &str) -> bool {
    segment_parts(name).is_some()
}

/// The components of a segment's name: the number and the part, which give its position in the
/// order of names, and the number under which it was rewritten, if it was.
pub fn segment_parts(name: &str) -> Option<(&str, &str, Option<&str>)> {
    let (number, rest) = name.strip_suffix(".parquet")?.split_once('-')?;
    let (part, rewritten) = match rest.split_once('-') {
        Some((part, rewritten)) => (part, Some(rewritten)),
        None => (rest, None),
    };
    let is_part = part == "m" || is_digits(part.strip_prefix('e').unwrap_or(part));
    let is_ours = is_number(number) && is_part && rewritten.is_none_or(is_number);
    is_ours.then_some((number, part, rewritten))
}

/// True for a segment outside of its day folder: `dt=2026-11-26-00000012-0003.parquet`.
pub fn is_segment_of_day(name: &str) -> bool {
    name.strip_prefix("dt=")
        .and_then(|rest| Some((rest.get(..10)?, rest.get(10..)?.strip_prefix('-')?)))
        .is_some_and(|(date, segment)| day(date).is_some() && is_segment(segment))
}

/// True for postings of an earlier version: `dt=2026-11-26-00000012-m.parquet.postings`.
pub fn is_postings(name: &str) -> bool {
    name.strip_suffix(".postings")
        .is_some_and(is_segment_of_day)
}

/// True for columns: `dt=2026-11-26-00000012-m.parquet.columns`.
pub fn is_columns(name: &str) -> bool {
    name.strip_suffix(".columns").is_some_and(is_segment_of_day)
}

/// The name of a daily state: `2026-11-26-00000012.state` of UTC,
/// `2026-11-26-00000012-Europe.Berlin.state` of another zone.
pub fn state(day: NaiveDate, number: u64, tz: Tz) -> String {
    match tz {
        Tz::UTC => format!("{day}-{number:08}.state"),
        tz => format!("{day}-{number:08}-{}.state", tz.name().replace('/', ".")),
    }
}

/// True for a daily state.
pub fn is_state(name: &str) -> bool {
    state_number(name).is_some()
}

/// The number in the name of a daily state.
pub fn state_number(name: &str) -> Option<u64> {
    let stem = name.strip_suffix(".state")?;
    let (date, rest) = (stem.get(..10)?, stem.get(10..)?.strip_prefix('-')?);
    let (number, zone) = rest.split_once('-').unwrap_or((rest, "UTC"));
    // A zone that is not known is of a later version.
    let is_zone = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    let is_ours = day(date).is_some() && is_number(number) && !zone.is_empty();
    (is_ours && zone.bytes().all(is_zone)).then(|| number.parse().ok())?
}

/// True for a file of event ids: `2026-11-26-00000012.ids`.
pub fn is_event_ids(name: &str) -> bool {
    let stem = name.strip_suffix(".ids");
    let parts = stem.and_then(|stem| Some((stem.get(..10)?, stem.get(10..)?.strip_prefix('-')?)));
    parts.is_some_and(|(date, number)| day(date).is_some() && is_number(number))
}

/// The name of a file of links between ids: `00000012.links`.
pub fn links(number: u64) -> String {
    format!("{number:08}.links")
}

/// The number in the name of a file of links between ids.
pub fn links_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".links");
    number.filter(|number| is_number(number))?.parse().ok()
}

/// The suffix of the table of a file of links: `00000012.links.table`.
pub const LINKS_TABLE_SUFFIX: &str = ".table";

/// True for the table of a file of links.
pub fn is_table_of_links(name: &str) -> bool {
    let links = name.strip_suffix(LINKS_TABLE_SUFFIX);
    links.is_some_and(|links| links_number(links).is_some())
}

/// True for a file of links between ids, or a table of them.
pub fn is_links(name: &str) -> bool {
    name == LINKS_TABLE || links_number(name).is_some() || is_table_of_links(name)
}

/// The number of a rotated log, which is waiting for its seal: `00000012.ndjson`.
pub fn rotated_log(name: &str) -> Option<u64> {
    let stem = name
        .strip_suffix(".ndjson")
        .filter(|stem| is_number(stem))?;
    stem.parse().ok()
}

/// The day of a day folder that a compaction or an erasure prepared: `00000012-2026-11-26`.
pub fn prepared_day(name: &str) -> Option<NaiveDate> {
    let (number, date) = name.split_once('-')?;
    day(date).filter(|_| is_number(number))
}

/// True for a dictionary: `users.ndjson`, or `users-3.ndjson` after users were removed.
pub fn is_dictionary(name: &str) -> bool {
    let generation = name
        .strip_prefix("users-")
        .and_then(|rest| rest.strip_suffix(".ndjson"));
    name == "users.ndjson" || generation.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// True for the names of files and day folders that an earlier version could leave in its folder of
/// unfinished files.
pub fn is_unfinished(name: &str) -> bool {
    let dated = name
        .get(..10)
        .zip(name.get(10..))
        .is_some_and(|(date, rest)| {
            day(date).is_some() && rest.strip_prefix('-').is_some_and(is_segment)
        });
    dated
        || is_postings(name)
        || is_columns(name)
        || is_day_folder(name)
        || is_dictionary(name)
        || is_links(name)
        || ["erasures.json", "quarantine.ndjson", "analytics.ndjson"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_are_told_from_similar_ones() {
        for name in [
            "00000001-0.parquet",
            "00000001-0012.parquet",
            "123456789-m.parquet",
            "00000002-e3.parquet",
            "00000001-0012-00000044.parquet",
            "00000001-m-00000044.parquet",
        ] {
            assert!(is_segment(name), "{name}");
            let of_day = format!("dt=2026-11-01-{name}");
            assert!(is_segment_of_day(&of_day) && is_postings(&format!("{of_day}.postings")));
            assert!(is_columns(&format!("{of_day}.columns")));
        }
        for name in [
            "2024-01.parquet",
            "part-00000.parquet",
            "00000001.parquet",
            "00000001-x.parquet",
            "00000001-.parquet",
            "00000001-e.parquet",
            "00000001-0012-.parquet",
            "00000001-0012-44.parquet",
            "00000001-0012-00000044-00000045.parquet",
            "1-0.parquet",
            "00000001-0.parquet.bak",
            "+0000001-0.parquet",
        ] {
            assert!(!is_segment(name), "{name}");
        }
        assert_eq!(rotated_log("00000012.ndjson"), Some(12));
        for name in [
            "2024.ndjson",
            "app.ndjson",
            "00000012.ndjson.gz",
            "-0000012.ndjson",
        ] {
            assert_eq!(rotated_log(name), None, "{name}");
        }
        assert!(is_event_ids("2026-11-26-00000012.ids") && !is_event_ids("my.ids"));
        assert_eq!(links_number(&links(12)), Some(12));
        assert!(is_links("links.parquet") && !is_links("my.links"));
        let date = day("2026-11-26").expect("a day");
        for (tz, name) in [
            (Tz::UTC, "2026-11-26-00000012.state"),
            (
                Tz::Europe__Berlin,
                "2026-11-26-00000012-Europe.Berlin.state",
            ),
            (
                Tz::America__PortauPrince,
                "2026-11-26-00000012-America.Port-au-Prince.state",
            ),
            (Tz::Etc__GMTMinus5, "2026-11-26-00000012-Etc.GMT-5.state"),
        ] {
            assert_eq!(state(date, 12, tz), name);
            assert_eq!(state_number(name), Some(12), "{name}");
        }
        assert!(
            !is_state("2026-11-26-00000012-.state") && !is_state("2026-11-26-00000012-a b.state")
        );
        assert!(
            !is_state("my.state")
                && !is_state("2026-11-26.state")
                && !is_state("é026-11-26-00000012.state")
        );
        assert!(prepared_day("00000012-2026-11-26").is_some());
        assert!(
            prepared_day("backup-2026-11-26").is_none()
                && prepared_day("00000012-2026-11-31").is_none()
        );
        assert!(
            is_day_folder("dt=2026-11-26")
                && !is_day_folder("dt=2026-1-2")
                && !is_day_folder("dt=x")
        );
        assert!(
            is_unfinished("2026-11-26-00000012-0003.parquet") && is_unfinished("dt=2026-11-26")
        );
        assert!(
            !is_unfinished("notes.txt")
                && !is_unfinished("manifest.json")
                && !is_unfinished("2026-11-26-notes.parquet")
        );
    }
}
