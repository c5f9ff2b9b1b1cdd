//! Two synthetic histories with the shape of real ones: the clicks of a web shop, and the purchases
//! of a shop's customers.
//!
//! They are the same in every run. Tests compare the metrics of them with DuckDB, because they have
//! what random events lack: ties of one user, a file that is not in time order, sessions, customers
//! who come once, and long gaps.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use chrono::{NaiveDate, TimeDelta};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::harness::numbers_below;

const SHOP_USERS: u64 = 600;
/// Half a year from 2024-01-04.
const SHOP_DAYS: u64 = 177;
const CUSTOMERS: u64 = 2_357;
/// Eighteen months from 1997-01-01.
const PURCHASE_DAYS: u64 = 545;
/// All customers had their first purchase in the first quarter.
const FIRST_PURCHASE_DAYS: u64 = 84;

/// Values of a distribution at the cumulative frequencies of [`FREQUENCIES`].
type Quantiles = [u64; 9];
/// In thousandths.
const FREQUENCIES: Quantiles = [0, 100, 250, 500, 750, 900, 950, 990, 1_000];

const SECONDS_BETWEEN_CLICKS: Quantiles = [0, 14, 36, 86, 179, 321, 444, 721, 1_677];
const SESSIONS_OF_A_USER: Quantiles = [3, 3, 4, 6, 8, 9, 9, 9, 9];
const DAYS_BETWEEN_SESSIONS: Quantiles = [1, 2, 5, 11, 22, 37, 49, 85, 125];
const PURCHASES_OF_A_CUSTOMER: Quantiles = [1, 1, 1, 1, 4, 6, 9, 21, 57];
const DAYS_BETWEEN_PURCHASES: Quantiles = [0, 3, 14, 45, 110, 220, 300, 420, 532];
const DISCS_OF_A_PURCHASE: Quantiles = [1, 1, 1, 2, 3, 5, 6, 11, 40];

/// Ends a session.
const END: &str = "";
const FIRST_CLICKS: &[(&str, u64)] = &[
    ("home", 33),
    ("catalog", 26),
    ("search", 19),
    ("product_view", 13),
    ("filter_results", 4),
    ("promo_page", 3),
    ("account_page", 2),
];
/// A feature, its event type, and the clicks that follow with their weights.
type Click = (&'static str, &'static str, &'static [(&'static str, u64)]);
#[rustfmt::skip]
const CLICKS: &[Click] = &[
    ("home", "page_view", &[("catalog", 29), ("search", 17), ("product_view", 16), (END, 9),
        ("filter_results", 8), ("promo_page", 7), ("account_page", 6), ("home", 4), ("cart", 2),
        ("add_to_cart", 2), ("wishlist_add", 2)]),
    ("catalog", "page_view", &[("product_view", 26), ("catalog", 17), ("search", 11), (END, 11),
        ("filter_results", 10), ("home", 8), ("add_to_cart", 3), ("wishlist_add", 3), ("cart", 3),
        ("promo_page", 2), ("error_page", 2), ("account_page", 2)]),
    ("search", "page_view", &[("product_view", 24), ("catalog", 20), ("search", 14), (END, 11),
        ("filter_results", 11), ("home", 7), ("add_to_cart", 3), ("wishlist_add", 3), ("cart", 3),
        ("account_page", 2), ("compare", 2)]),
    ("filter_results", "action", &[("catalog", 24), ("product_view", 20), ("search", 12), (END, 12),
        ("filter_results", 12), ("home", 4), ("add_to_cart", 3), ("wishlist_add", 3), ("cart", 3),
        ("promo_page", 2), ("error_page", 2), ("account_page", 2)]),
    ("product_view", "page_view", &[("catalog", 20), ("product_view", 19), ("search", 12), (END, 11),
        ("filter_results", 8), ("add_to_cart", 6), ("wishlist_add", 4), ("cart", 4), ("home", 4),
        ("review_page", 3), ("shipping_details", 3), ("payment_details", 2), ("promo_page", 2),
        ("compare", 2)]),
    ("promo_page", "page_view", &[("product_view", 26), ("catalog", 18), ("home", 14), (END, 13),
        ("filter_results", 8), ("search", 7), ("add_to_cart", 4), ("cart", 3), ("wishlist_add", 3),
        ("shipping_details", 2)]),
    ("account_page", "page_view", &[("catalog", 21), ("product_view", 18), (END, 16), ("home", 12),
        ("search", 10), ("filter_results", 8), ("support_chat", 7), ("cart", 3)]),
    ("wishlist_add", "action", &[("product_view", 29), ("catalog", 21), (END, 11), ("search", 10),
        ("filter_results", 7), ("add_to_cart", 5), ("cart", 4), ("home", 4), ("shipping_details", 4),
        ("wishlist_add", 3)]),
    ("review_page", "page_view", &[("product_view", 39), ("catalog", 19), (END, 14), ("search", 9),
        ("add_to_cart", 8)]),
    ("compare", "page_view", &[("product_view", 38), ("catalog", 20), (END, 14), ("search", 10),
        ("add_to_cart", 10)]),
    ("error_page", "page_view", &[("product_view", 22), ("catalog", 20), ("search", 18), (END, 18),
        ("filter_results", 10), ("support_chat", 8)]),
    ("support_chat", "action", &[("product_view", 22), (END, 14), ("search", 12), ("catalog", 12),
        ("payment_details", 10), ("shipping_details", 8), ("payment_error", 8)]),
    ("add_to_cart", "action", &[("product_view", 20), ("cart", 18), ("shipping_details", 12), (END, 10),
        ("catalog", 10), ("payment_details", 8), ("search", 5), ("purchase", 5), ("checkout_bug", 3)]),
    ("cart", "page_view", &[("shipping_details", 17), ("product_view", 14), ("add_to_cart", 14),
        (END, 11), ("payment_details", 12), ("catalog", 9), ("purchase", 9), ("cart", 3)]),
    ("shipping_details", "page_view", &[("payment_details", 18), (END, 15), ("cart", 15),
        ("product_view", 12), ("purchase", 14), ("add_to_cart", 9), ("catalog", 7),
        ("shipping_details", 3)]),
    ("payment_details", "page_view", &[(END, 22), ("purchase", 20), ("shipping_details", 15),
        ("cart", 11), ("product_view", 8), ("add_to_cart", 7), ("payment_error", 7),
        ("payment_details", 3), ("support_chat", 4)]),
    ("payment_error", "action", &[("support_chat", 22), (END, 17), ("payment_details", 10),
        ("shipping_details", 10), ("cart", 10)]),
    ("checkout_bug", "action", &[("add_to_cart", 25), ("cart", 23), ("shipping_details", 20),
        (END, 12), ("catalog", 8)]),
    ("purchase", "conversion", &[(END, 42), ("payment_details", 13), ("shipping_details", 10),
        ("cart", 8), ("product_view", 8), ("add_to_cart", 7), ("support_chat", 2)]),
];

/// Writes the clicks of a web shop, user after user, as gzipped lines for an import.
pub fn shop_clicks(dir: &Path) -> PathBuf {
    write(dir, "shop.ndjson.gz", &shop_lines())
}

/// Writes the purchases of the customers of a shop, day after day, each at noon of its day.
pub fn purchases(dir: &Path) -> PathBuf {
    write(dir, "purchases.ndjson.gz", &purchase_lines())
}

fn write(dir: &Path, name: &str, lines: &str) -> PathBuf {
    let path = dir.join(name);
    let file = std::fs::File::create(&path).expect("a folder");
    let mut file = GzEncoder::new(file, Compression::fast());
    file.write_all(lines.as_bytes()).expect("free space");
    file.finish().expect("free space");
    path
}

fn shop_lines() -> String {
    let mut below = numbers_below(20_240_104);
    let start = NaiveDate::from_ymd_opt(2024, 1, 4).expect("a day");
    let (mut lines, mut session) = (String::new(), 0);
    for user in 0..SHOP_USERS {
        let channels = [
            ("organic", 36),
            ("paid_search", 28),
            ("email", 16),
            ("social", 16),
            ("direct", 4),
        ];
        let channel = weighted(&channels, &mut below);
        let platforms = [("desktop", 52), ("mobile", 36), ("tablet", 12)];
        let own_platform = weighted(&platforms, &mut below);
        let sessions = quantile(&SESSIONS_OF_A_USER, &mut below);
        let days = days(sessions, &DAYS_BETWEEN_SESSIONS, SHOP_DAYS - 1, &mut below);
        // Most users came in spring.
        let spare = SHOP_DAYS - days[days.len() - 1];
        let first = (below(spare) + below(spare)) / 2;
        for day in days {
            session += 1;
            let platform = if below(8) == 0 {
                weighted(&platforms, &mut below)
            } else {
                own_platform
            };
            let morning = start.and_hms_opt(8, 0, 0).expect("a time").and_utc();
            let mut ts = morning
                + TimeDelta::days((first + day) as i64)
                + TimeDelta::seconds(below(13 * 3_600) as i64);
            let mut feature = weighted(FIRST_CLICKS, &mut below);
            while feature != END {
                let (_, event_type, next) = CLICKS
                    .iter()
                    .find(|(name, ..)| *name == feature)
                    .expect("a click");
                writeln!(
                    lines,
                    r#"{{"ts":"{}","event_type":"{event_type}","user_id":"user_{user:04}","feature":"{feature}","url":"/{feature}","metadata":{{"session_id":"sess_{session:06}","platform":"{platform}","acquisition_channel":"{channel}"}}}}"#,
                    ts.format("%FT%TZ"),
                )
                .expect("memory");
                ts += TimeDelta::seconds(quantile(&SECONDS_BETWEEN_CLICKS, &mut below) as i64);
                feature = weighted(next, &mut below);
            }
        }
    }
    lines
}

fn purchase_lines() -> String {
    let mut below = numbers_below(19_970_101);
    let start = NaiveDate::from_ymd_opt(1997, 1, 1).expect("a day");
    let mut by_day = vec![String::new(); PURCHASE_DAYS as usize];
    for customer in 1..=CUSTOMERS {
        let first = below(FIRST_PURCHASE_DAYS);
        let count = quantile(&PURCHASES_OF_A_CUSTOMER, &mut below);
        for day in days(
            count,
            &DAYS_BETWEEN_PURCHASES,
            PURCHASE_DAYS - 1 - first,
            &mut below,
        ) {
            let day = (first + day) as usize;
            let discs = quantile(&DISCS_OF_A_PURCHASE, &mut below);
            // Free discs exist.
            let cents = if below(200) == 0 {
                0
            } else {
                discs * (999 + below(600))
            };
            writeln!(
                by_day[day],
                r#"{{"ts":"{}T12:00:00Z","event_type":"conversion","user_id":"{:05}","feature":"purchase","metadata":{{"cds":{discs},"dollars":{}.{:02}}}}}"#,
                start + TimeDelta::days(day as i64),
                customer * 10,
                cents / 100,
                cents % 100,
            )
            .expect("memory");
        }
    }
    by_day.concat()
}

/// Days from 0 on, with gaps of a distribution. Gaps beyond `last` are scaled, short ones to zero.
fn days(count: u64, gaps: &Quantiles, last: u64, below: &mut impl FnMut(u64) -> u64) -> Vec<u64> {
    let mut days = vec![0];
    for _ in 1..count {
        days.push(days[days.len() - 1] + quantile(gaps, below));
    }
    let sum = days[days.len() - 1].max(last);
    days.iter().map(|day| day * last / sum).collect()
}

/// A random value of a distribution, interpolated between its quantiles.
fn quantile(values: &Quantiles, below: &mut impl FnMut(u64) -> u64) -> u64 {
    let share = below(1_000);
    let upper = FREQUENCIES
        .iter()
        .position(|bound| share < *bound)
        .expect("below the last");
    let (from, to) = (values[upper - 1], values[upper]);
    // The width times a thousand, so that equal parts of a range are equally likely.
    let width = (FREQUENCIES[upper] - FREQUENCIES[upper - 1]) * 1_000;
    from + (to - from) * ((share - FREQUENCIES[upper - 1]) * 1_000 + below(1_000)) / width
}

fn weighted<'a>(choices: &[(&'a str, u64)], below: &mut impl FnMut(u64) -> u64) -> &'a str {
    let mut at = below(choices.iter().map(|(_, weight)| weight).sum());
    for (choice, weight) in choices {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return choice,
        }
    }
    unreachable!("the weights sum up to the bound")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::{CUSTOMERS, PURCHASE_DAYS, SHOP_DAYS, SHOP_USERS, purchase_lines, shop_lines};

    /// The properties of a history on which metrics depend.
    #[derive(Default)]
    struct Shape {
        events: usize,
        days: usize,
        /// Events that are earlier than the one before them in the file.
        descents: usize,
        /// Events with the timestamp of the user's previous event, and those of another feature.
        ties: usize,
        ties_of_two_features: usize,
        /// Gaps of one user longer than half an hour, a day and thirty days.
        gaps: [usize; 3],
        /// Events of each user, in ascending order.
        events_of_users: Vec<usize>,
        users_of_features: BTreeMap<String, usize>,
    }

    fn shape(lines: &str) -> Shape {
        let mut shape = Shape::default();
        let mut users: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
        let (mut days, mut previous) = (BTreeSet::new(), i64::MIN);
        for line in lines.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let at = event["ts"]
                .as_str()
                .unwrap()
                .parse::<chrono::DateTime<chrono::Utc>>()
                .unwrap();
            let feature = event["feature"].as_str().unwrap().to_owned();
            let user = event["user_id"].as_str().unwrap().to_owned();
            days.insert(at.date_naive());
            shape.events += 1;
            shape.descents += usize::from(at.timestamp() < previous);
            previous = at.timestamp();
            users.entry(user).or_default().push((previous, feature));
        }
        shape.days = days.len();
        let mut features: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (user, events) in &mut users {
            // Stable: events of one timestamp stay in the order of the file.
            events.sort_by_key(|(at, _)| *at);
            for pair in events.windows(2) {
                let gap = pair[1].0 - pair[0].0;
                shape.ties += usize::from(gap == 0);
                shape.ties_of_two_features += usize::from(gap == 0 && pair[0].1 != pair[1].1);
                for (count, longer_than) in shape.gaps.iter_mut().zip([1_800, 86_400, 30 * 86_400])
                {
                    *count += usize::from(gap > longer_than);
                }
            }
            for (_, feature) in events.iter() {
                features.entry(feature.clone()).or_default().insert(user);
            }
            shape.events_of_users.push(events.len());
        }
        shape.events_of_users.sort_unstable();
        shape.users_of_features = features
            .into_iter()
            .map(|(name, users)| (name, users.len()))
            .collect();
        shape
    }

    #[test]
    fn shop_clicks_have_the_shape_of_a_real_click_stream() {
        let lines = shop_lines();
        let shape = shape(&lines);
        assert_eq!(lines, shop_lines(), "the same in every run");
        assert_eq!(shape.events_of_users.len() as u64, SHOP_USERS);
        assert!((170..=SHOP_DAYS as usize).contains(&shape.days));
        assert!((25_000..35_000).contains(&shape.events));
        // Each user begins again: the file is not in time order.
        assert!(shape.descents > 500);
        assert!(shape.ties > 140 && shape.ties_of_two_features > 110);
        let [sessions, days, months] = shape.gaps;
        assert!(sessions > 2_500 && days > 2_400 && months > 300);
        assert!(shape.events_of_users[30] >= 10 && shape.events_of_users[570] < 150);
        assert_eq!(shape.users_of_features.len(), 19);
        let users = |feature: &str| shape.users_of_features[feature];
        assert!(users("catalog") > 590 && users("product_view") > 590);
        assert!((300..500).contains(&users("cart")) && (200..400).contains(&users("purchase")));
        assert!(
            (15..60).contains(&users("checkout_bug")),
            "some features are rare"
        );
    }

    #[test]
    fn purchases_have_the_shape_of_a_real_customer_base() {
        let lines = purchase_lines();
        let shape = shape(&lines);
        assert_eq!(lines, purchase_lines(), "the same in every run");
        assert_eq!(shape.events_of_users.len() as u64, CUSTOMERS);
        assert!((PURCHASE_DAYS as usize - 5..=PURCHASE_DAYS as usize).contains(&shape.days));
        assert!((6_000..8_000).contains(&shape.events));
        assert_eq!(shape.descents, 0);
        // Several purchases of a customer at one timestamp, all of them of one feature.
        assert!(shape.ties > 150);
        assert_eq!(shape.ties_of_two_features, 0);
        let [_, days, months] = shape.gaps;
        assert!(days > 3_700 && months > 1_900);
        // A heavy tail: half of the customers buy once, a few more than twenty times.
        let of_users = &shape.events_of_users;
        assert!(
            of_users[of_users.len() * 45 / 100] == 1 && of_users[of_users.len() * 62 / 100] > 1
        );
        assert!(of_users[of_users.len() - 1] > 40);
        assert!(of_users.iter().filter(|events| **events > 20).count() > 10);
    }
}
