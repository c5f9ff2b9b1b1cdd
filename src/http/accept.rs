//! Content negotiation: weighted lists as in RFC 9110, sections 12.4.2 and 12.5, and the format of
//! a response. A weight of 0 means never.

use std::cmp::Reverse;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::HandlerResult;
use super::error_response::ErrorResponse;
use crate::error::{ErrorCode, first_chars};
use crate::export::Format;

/// The highest weight, which a member without a weight has.
const FULL_WEIGHT: u16 = 1_000;

/// A member of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference<'a> {
    /// A media type, a range of them, or a coding.
    pub name: &'a str,
    /// Its parameters without the weight.
    pub parameters: Vec<(&'a str, &'a str)>,
    /// Its weight in thousandths.
    pub weight: u16,
}

impl Preference<'_> {
    /// Returns true if it has this name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters.iter();
        let found = parameters.find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    }
}

/// The members of a header, of all its lines; invalid ones are left out.
pub fn preferences<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<Preference<'a>> {
    let lines = headers.get_all(name).into_iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| split(line, ','))
        .filter_map(preference)
        .collect()
}

fn preference(member: &str) -> Option<Preference<'_>> {
    let mut parts = split(member, ';').into_iter().map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let mut found = Preference {
        name,
        parameters: Vec::new(),
        weight: FULL_WEIGHT,
    };
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        if name.eq_ignore_ascii_case("q") {
            found.weight = weight(value)?;
            // Parameters after the weight are not part of the type.
            break;
        }
        found.parameters.push((name, value));
    }
    Some(found)
}

/// A weight from 0 to 1, in thousandths.
fn weight(value: &str) -> Option<u16> {
    let is_decimal = value
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let weight: f64 = value.parse().ok().filter(|_| is_decimal)?;
    // Less than a thousandth is more than zero.
    (weight <= 1.0).then(|| (weight * f64::from(FULL_WEIGHT)).ceil() as u16)
}

/// Splits a string at separators that are not in quotes.
fn split(list: &str, separator: char) -> Vec<&str> {
    let mut is_quoted = false;
    list.split(|char| {
        is_quoted ^= char == '"';
        char == separator && !is_quoted
    })
    .collect()
}

/// True if gzip is accepted, and preferred over no encoding or as good.
pub fn prefers_gzip(request: &HeaderMap) -> bool {
    let accepted = preferences(request, &header::ACCEPT_ENCODING);
    let named = |name: &str| accepted.iter().find(|coding| coding.is(name));
    let gzip = named("gzip").or(named("x-gzip")).or(named("*"));
    let gzip = gzip.map_or(0, |coding| coding.weight);
    let identity = named("identity").map_or(0, |coding| coding.weight);
    gzip > 0 && gzip >= identity
}

/// The format of rows that a client prefers; JSON without an `Accept` header.
pub fn accepted(headers: &HeaderMap) -> HandlerResult<Format> {
    accepted_of(
        headers,
        &Format::ALL.map(|format| (format, format.media_type())),
    )
}

/// The format that a client prefers of some with their media types; the first one without an
/// `Accept` header. Of formats with equal weights, the one that is named first.
pub fn accepted_of<T: Copy>(
    headers: &HeaderMap,
    formats: &[(T, &'static str)],
) -> HandlerResult<T> {
    let ranges = preferences(headers, &header::ACCEPT);
    let has_no_accept = headers
        .get_all(header::ACCEPT)
        .iter()
        .all(HeaderValue::is_empty);
    if has_no_accept && let Some((first, _)) = formats.first() {
        return Ok(*first);
    }
    // The highest weight, then the first in the header, then the first of our formats.
    let best = formats
        .iter()
        .filter_map(|(format, media_type)| Some((*format, wanted(media_type, &ranges)?)))
        .filter(|(_, (weight, _))| *weight > 0)
        .min_by_key(|(_, (weight, place))| (Reverse(*weight), *place));
    if let Some((format, _)) = best {
        return Ok(format);
    }
    let wanted: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .map(|line| line.to_str().unwrap_or_default())
        .collect();
    let wanted = wanted.join(", ");
    let wanted = first_chars(&wanted, 200);
    let allowed: Vec<&str> = formats.iter().map(|(_, media_type)| *media_type).collect();
    let allowed = allowed.join(", ");
    Err(ErrorResponse::new(
        StatusCode::NOT_ACCEPTABLE,
        ErrorCode::NotAcceptable,
        format!("Accept is {wanted:?}; allowed are {allowed}"),
    ))
}

/// The weight of a format and the position of the range that determines it: the most specific one.
fn wanted(media_type: &str, ranges: &[Preference<'_>]) -> Option<(u16, usize)> {
    let format = preference(media_type)?;
    let name = format.name;
    let (kind, _) = name.split_once('/').unwrap_or_default();
    // Of two formats with one type, the second has a variant.
    let variant = format.parameter("variant");
    let closeness = |range: &Preference<'_>| match range.parameter("variant") {
        found if found.is_some() && range.is(name) => (found == variant).then_some(3),
        // A variant is chosen by its name alone.
        _ if variant.is_some() => None,
        _ if range.is(name) => Some(2),
        _ if range.is(&format!("{kind}/*")) => Some(1),
        _ => range.is("*/*").then_some(0),
    };
    let fitting = ranges.iter().enumerate();
    let fitting = fitting.filter_map(|(place, range)| Some((closeness(range)?, place, range)));
    fitting
        .min_by_key(|(closeness, place, _)| (Reverse(*closeness), *place))
        .map(|(_, place, range)| (range.weight, place))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    #[test]
    fn members_of_all_lines_have_names_parameters_and_weights() {
        let mut headers = HeaderMap::new();
        for line in [
            "text/csv; variant=\"a,b;c\" ;Q=0.5, */*;q=0",
            "x;q=1.000;ext=1,, y ; q=0.0001",
            "bad;q=2, worse;q=nan, worst;q=-1, none;q=",
            " z",
        ] {
            headers.append(header::ACCEPT, HeaderValue::from_static(line));
        }
        let found = preferences(&headers, &header::ACCEPT);
        let weights: Vec<(&str, u16)> = found.iter().map(|one| (one.name, one.weight)).collect();
        assert_eq!(
            weights,
            [
                ("text/csv", 500),
                ("*/*", 0),
                ("x", 1_000),
                ("y", 1),
                ("z", 1_000)
            ]
        );
        let csv = found.first().expect("a member");
        assert!(csv.is("TEXT/csv"));
        assert_eq!(csv.parameter("Variant"), Some("a,b;c"));
        assert_eq!(csv.parameter("q"), None);
        assert!(preferences(&headers, &header::ACCEPT_ENCODING).is_empty());
    }
    #[test]
    fn the_most_wanted_format_is_chosen() {
        for (accept, format) in [
            (&[][..], Some(Format::Json)),
            (&[""], Some(Format::Json)),
            (&["*/*"], Some(Format::Json)),
            (&["text/csv"], Some(Format::Csv)),
            (
                &["text/csv; variant=spreadsheet"],
                Some(Format::CsvSpreadsheet),
            ),
            (&["text/*"], Some(Format::Csv)),
            // Of equal weights the first, whatever the order of our formats.
            (
                &["application/vnd.apache.parquet, application/json"],
                Some(Format::Parquet),
            ),
            (
                &["application/json;q=0.5, text/csv;q=0.6"],
                Some(Format::Csv),
            ),
            // The most specific range counts.
            (&["*/*", "application/json;q=0.1"], Some(Format::Csv)),
            (&["application/json;q=0, */*;q=0.1"], Some(Format::Csv)),
            (&["application/json;q=0"], None),
            (&["image/png"], None),
            (&["text/csv; variant=other"], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in accept {
                headers.append(header::ACCEPT, HeaderValue::from_static(line));
            }
            assert_eq!(accepted(&headers).ok(), format, "{accept:?}");
        }
    }

    #[test]
    fn gzip_is_sent_where_it_is_accepted_and_not_worse_than_none() {
        for (accepted, is_gzip) in [
            (&["gzip"][..], true),
            (&["br, GZIP;q=0.1"], true),
            (&["br", "x-gzip"], true),
            (&["*"], true),
            (&["*;q=0.5, identity;q=0.4"], true),
            (&["gzip;q=0.5, identity;q=0.6"], false),
            (&["gzip;q=0, *"], false),
            (&["gzip;q=0"], false),
            (&["*;q=0"], false),
            (&["br, zstd"], false),
            (&[""], false),
            (&[], false),
        ] {
            let mut request = HeaderMap::new();
            for line in accepted {
                request.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(prefers_gzip(&request), is_gzip, "{accepted:?}");
        }
    }
}
