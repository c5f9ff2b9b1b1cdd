//! Parts of the queries of `queries/`, which statements have in common with them.

/// A query of `queries/`: common table expressions, and a `select` after them.
pub struct Fixed(pub &'static str);

pub const ACTIVE_USERS: Fixed = Fixed(include_str!("../../queries/active_users.sql"));
pub const FEATURE_USAGE: Fixed = Fixed(include_str!("../../queries/feature_usage.sql"));
pub const FUNNEL: Fixed = Fixed(include_str!("../../queries/funnel.sql"));
pub const LIFECYCLE: Fixed = Fixed(include_str!("../../queries/lifecycle.sql"));
pub const PATHS: Fixed = Fixed(include_str!("../../queries/paths.sql"));
pub const SESSIONS: Fixed = Fixed(include_str!("../../queries/sessions.sql"));

/// Names of weeks in the queries, and of any period in statements.
const PERIODS: [(&str, &str); 4] = [
    ("week_num", "period_num"),
    ("first_week", "first_period"),
    (":from_week", "0"),
    (":to_week", ":last_period"),
];

impl Fixed {
    /// Some of its expressions, each with its name.
    pub fn expressions(&self, names: &[&str]) -> Vec<(String, String)> {
        let named = names.iter().filter_map(|&name| {
            let head = format!("{name} as (\n");
            let (_, rest) = self.0.split_once(&head)?;
            let (body, _) = rest.split_once("\n)")?;
            Some((name.to_owned(), of_periods(body)))
        });
        named.collect()
    }

    /// The `select` after its expressions.
    pub fn select(&self) -> String {
        let select = self.0.rsplit_once("\n)\n").map_or("", |(_, select)| select);
        of_periods(select)
    }
}

/// A part without its comments and its indentation, for periods of any length.
fn of_periods(sql: &str) -> String {
    let lines = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"));
    let lines: Vec<&str> = lines
        .map(|line| line.strip_prefix("  ").unwrap_or(line))
        .collect();
    let mut sql = lines.join("\n");
    for (week, period) in PERIODS {
        sql = sql.replace(week, period);
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_query_has_its_body_without_comments() {
        let parts = SESSIONS.expressions(&["sizes", "distances", "none"]);
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["sizes", "distances"]);
        assert_eq!(
            parts[0].1,
            "select first_period, count(*) - 1 as last_place\nfrom begun\ngroup by first_period"
        );
        assert!(
            parts[1]
                .1
                .starts_with("select\n  ranked.first_period as first_period")
        );
        let select = FEATURE_USAGE.select();
        assert!(select.starts_with("select\n") && select.ends_with("order by uses desc, feature"));
    }
}
