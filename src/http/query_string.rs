//! Query strings.

use crate::error::{Error, ErrorCode, Result, shown};
use crate::window::{WindowRequest, named_day, parse_period};

/// The fields of a window.
pub(super) const WINDOW: [&str; 6] = ["days", "end", "from", "to", "period", "tz"];

/// The window of the fields of [`WINDOW`].
pub(super) fn window_of(fields: Vec<(String, String)>) -> Result<WindowRequest> {
    let mut request = WindowRequest::default();
    for (field, value) in fields {
        match field.as_str() {
            "days" => {
                let days = value.parse().map_err(|_| {
                    let value = shown(&value);
                    Error::bad_input(
                        ErrorCode::BadDays,
                        format!("days is {value:?}; allowed is 1 to 365"),
                    )
                })?;
                request.days = Some(days);
            }
            "end" => request.end = Some(named_day("end", ErrorCode::BadEnd, &value)?),
            "from" => request.from = Some(named_day("from", ErrorCode::BadWindow, &value)?),
            "to" => request.to = Some(named_day("to", ErrorCode::BadWindow, &value)?),
            "period" => {
                let period = parse_period(&value);
                let bad = |message| Error::bad_input(ErrorCode::BadWindow, message);
                request.period = Some(period.map_err(bad)?);
            }
            _ => request.tz = Some(value),
        }
    }
    Ok(request)
}

/// Parses a query string whose fields must be among `allowed`, each at most once.
pub(super) fn parameters(query: &str, allowed: &[&str]) -> Result<Vec<(String, String)>> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).map_err(|error| {
        Error::bad_input(ErrorCode::BadQuery, format!("the query string: {error}"))
    })?;
    let mut seen: Vec<&str> = Vec::new();
    for (field, _) in &pairs {
        if !allowed.contains(&field.as_str()) || seen.contains(&field.as_str()) {
            let field = shown(field);
            let allowed = allowed.join(", ");
            return Err(Error::bad_input(
                ErrorCode::BadQuery,
                format!("the field {field:?} is unknown or duplicate; allowed are {allowed}"),
            ));
        }
        seen.push(field);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;

    #[test]
    fn fields_are_known_and_given_once() {
        for (query, fields) in [
            ("", Some(vec![])),
            ("days=3", Some(vec![("days", "3")])),
            (
                "tz=Europe%2FBerlin&days=",
                Some(vec![("tz", "Europe/Berlin"), ("days", "")]),
            ),
            ("days=3&days=3", None),
            ("day=3", None),
            ("%ff=1", None),
        ] {
            let found = parameters(query, &["days", "tz"]).ok();
            let fields = fields.map(|fields| {
                let owned = fields.into_iter();
                owned
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect::<Vec<_>>()
            });
            assert_eq!(found, fields, "{query}");
        }
    }

    #[test]
    fn a_window_has_days_an_end_and_a_zone() {
        let window = |query: &str| window_of(parameters(query, &WINDOW)?);
        let found = window("days=7&end=2026-02-28&tz=Asia/Tokyo").expect("a window");
        assert_eq!(found.days, Some(7));
        assert_eq!(found.end, NaiveDate::from_ymd_opt(2026, 2, 28));
        assert_eq!(found.tz.as_deref(), Some("Asia/Tokyo"));
        let named = window("period=last_month").expect("a window");
        assert_eq!(named.period, Some(crate::window::NamedPeriod::LastMonth));
        for wrong in [
            "days=many",
            "end=2026-02-29",
            "end=soon",
            "period=last_decade",
        ] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }
}
