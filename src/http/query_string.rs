//! Query strings.

use chrono::NaiveDate;

use crate::error::{Error, Result};
use crate::window::{WindowRequest, parse_day};

/// The window of the fields `days`, `end` and `tz`.
pub(super) fn window_of(fields: Vec<(String, String)>) -> Result<WindowRequest> {
    let mut request = WindowRequest::default();
    for (field, value) in fields {
        match field.as_str() {
            "days" => {
                let days = value.parse().map_err(|_| {
                    let value: String = value.chars().take(64).collect();
                    Error::bad_input(
                        "bad_days",
                        format!("days is {value:?}; allowed is 1 to 365"),
                    )
                })?;
                request.days = Some(days);
            }
            "end" => request.end = Some(day("end", "bad_end", &value)?),
            _ => request.tz = Some(value),
        }
    }
    Ok(request)
}

pub(super) fn day(field: &str, code: &'static str, value: &str) -> Result<NaiveDate> {
    parse_day(value).map_err(|message| Error::bad_input(code, format!("{field}: {message}")))
}

/// Parses a query string whose fields must be among `allowed`, each at most once.
pub(super) fn parameters(query: &str, allowed: &[&str]) -> Result<Vec<(String, String)>> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query)
        .map_err(|error| Error::bad_input("bad_query", format!("the query string: {error}")))?;
    let mut seen: Vec<&str> = Vec::new();
    for (field, _) in &pairs {
        if !allowed.contains(&field.as_str()) || seen.contains(&field.as_str()) {
            let field: String = field.chars().take(64).collect();
            let allowed = allowed.join(", ");
            return Err(Error::bad_input(
                "bad_query",
                format!("the field {field:?} is unknown or duplicate; allowed are {allowed}"),
            ));
        }
        seen.push(field);
    }
    Ok(pairs)
}
