//! The weekly digest: usage of an ISO week with the changes to the week before, as plain words and
//! as an HTML table.

use std::fmt::Write as _;

use chrono::NaiveDate;
use serde_json::{Value, json};

use super::Alert;
use super::message::{Content, Event, escaped};
use crate::error::first_chars;

/// Most features that are listed.
pub const FEATURES: usize = 10;
/// Most characters of the name of a feature.
const MAX_NAME_CHARS: usize = 100;

/// The usage of a week.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WeekUsage {
    /// Distinct users of the week.
    pub users: u64,
    /// Mean of distinct users of a day.
    pub daily_users: f64,
    /// Events.
    pub events: u64,
    /// Events by type, in the order of the funnel.
    pub types: Vec<(String, u64)>,
    /// Events by feature, most used first.
    pub features: Vec<(String, u64)>,
}

/// A row of the digest: its name, the number of the week and that of the week before.
type Row = (String, f64, Option<f64>);

/// The digest of the week that ends with a day. `before` is none if nothing of the week before is
/// known.
pub fn content(
    alert: &Alert,
    (first, last): (NaiveDate, NaiveDate),
    week: &WeekUsage,
    before: Option<&WeekUsage>,
) -> Content {
    let name = &alert.name;
    let zone = alert.zone().unwrap_or("UTC");
    let mut rows: Vec<Row> = vec![
        (
            "Users of the week".into(),
            week.users as f64,
            before.map(|before| before.users as f64),
        ),
        (
            "Users a day".into(),
            week.daily_users,
            before.map(|before| before.daily_users),
        ),
        (
            "Events".into(),
            week.events as f64,
            before.map(|before| before.events as f64),
        ),
    ];
    rows.extend(listed(
        &week.types,
        before.map(|before| &before.types),
        None,
    ));
    let features = before.map(|before| &before.features);
    let features = listed(&week.features, features, Some(FEATURES));
    let title = format!("{name}: {first} to {last}");
    let mut plain = format!("{title} ({zone}), and the change to the week before\n");
    let mut html = format!(
        "<h2>{}</h2><p>{}, and the change to the week before</p>",
        escaped(&title),
        escaped(zone)
    );
    for (heading, rows) in [("", &rows), ("Most used features", &features)] {
        if rows.is_empty() {
            continue;
        }
        if !heading.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(plain, "\n{heading}");
            let _ = write!(html, "<h3>{heading}</h3>");
        }
        html += "<table>";
        for (name, value, before) in rows {
            let (value, change) = (number(*value), change(*value, *before));
            let _ = writeln!(plain, "{name}: {value} ({change})");
            let _ = write!(
                html,
                "<tr><td>{}</td><td align=\"right\">{value}</td><td align=\"right\">{change}</td></tr>",
                escaped(name)
            );
        }
        html += "</table>";
    }
    let numbers = |rows: &[Row]| -> Vec<Value> {
        let rows = rows.iter();
        rows.map(|(name, value, before)| json!({"name": name, "value": value, "before": before}))
            .collect()
    };
    Content {
        subject: title,
        plain,
        html,
        body: json!({
            "type": "digest",
            "event": Event::Digest,
            "alert": {"id": alert.id, "name": name},
            "window": {"from": first, "to": last, "tz": zone},
            "numbers": numbers(&rows),
            "features": numbers(&features),
        }),
    }
}

/// Rows of names with their counts. A name that the week before does not list had no event then,
/// unless lists are cut.
fn listed(
    week: &[(String, u64)],
    before: Option<&Vec<(String, u64)>>,
    most: Option<usize>,
) -> Vec<Row> {
    let count_before = |name: &str| {
        let counts = before?;
        let found = counts.iter().find(|(other, _)| other == name);
        Some(found.map_or(0.0, |(_, count)| *count as f64))
    };
    let rows = week.iter().take(most.unwrap_or(usize::MAX));
    rows.map(|(name, count)| {
        // Clients choose their names: of any length, and with newlines.
        let shown = first_chars(name, MAX_NAME_CHARS).replace(char::is_control, " ");
        (shown, *count as f64, count_before(name))
    })
    .collect()
}

/// A number with at most one decimal, with a space between thousands.
fn number(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    let (whole, decimal) = (rounded.trunc(), (rounded.fract() * 10.0).round());
    let digits = format!("{whole:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{a0}');
        }
        grouped.push(digit);
    }
    if decimal > 0.0 {
        grouped += &format!(".{decimal:.0}");
    }
    grouped
}

fn change(value: f64, before: Option<f64>) -> String {
    match before {
        None => "no week before".into(),
        Some(0.0) if value == 0.0 => "as before".into(),
        Some(0.0) => "new".into(),
        Some(before) => {
            let percent = (value / before - 1.0) * 100.0;
            format!("{percent:+.1} %")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_numbers_changes_and_escaped_names() {
        let json = json!({"id": "week", "name": "Our <week>", "digest": "weekly", "tz": "Europe/Berlin",
            "to": ["mailto:a@b.example"]});
        let alert = Alert::parse(json.to_string().as_bytes()).expect("a digest");
        let named = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
            let pairs = pairs.iter();
            pairs
                .map(|&(name, count)| (name.to_owned(), count))
                .collect()
        };
        let week = WeekUsage {
            users: 1_234_567,
            daily_users: 12.34,
            events: 150,
            types: named(&[("page_view", 0), ("action", 150)]),
            features: named(&[("<script>", 90), ("new", 60)]),
        };
        let before = WeekUsage {
            users: 1_000_000,
            daily_users: 0.0,
            events: 200,
            types: named(&[("page_view", 0), ("action", 200)]),
            features: named(&[("<script>", 100)]),
        };
        let day = |day| NaiveDate::from_ymd_opt(2026, 11, day).expect("a day");
        let found = content(&alert, (day(16), day(22)), &week, Some(&before));
        let expected = [
            "Our <week>: 2026-11-16 to 2026-11-22 (Europe/Berlin), and the change to the week before",
            "Users of the week: 1\u{a0}234\u{a0}567 (+23.5 %)",
            "Users a day: 12.3 (new)",
            "Events: 150 (-25.0 %)",
            "page_view: 0 (as before)",
            "action: 150 (-25.0 %)",
            "",
            "Most used features",
            "<script>: 90 (-10.0 %)",
            "new: 60 (new)",
        ];
        assert_eq!(found.plain.lines().collect::<Vec<_>>(), expected);
        assert!(found.html.starts_with("<h2>Our &lt;week&gt;: 2026-11-16"));
        assert!(found.html.contains(
            "<tr><td>&lt;script&gt;</td><td align=\"right\">90</td><td align=\"right\">-10.0 %</td></tr>"
        ));
        assert_eq!(found.body["window"]["from"], "2026-11-16");
        assert_eq!(found.body["features"][1]["before"], 0.0);
        let alone = content(&alert, (day(16), day(22)), &week, None);
        assert!(alone.plain.contains("Events: 150 (no week before)"));
    }
}
