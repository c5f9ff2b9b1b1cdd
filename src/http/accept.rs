//! What a client prefers: members of a list with weights, as RFC 9110 has them in sections 12.4.2 and 12.5. A weight of 0 means
//! never.

use axum::http::{HeaderMap, HeaderName};

/// The greatest weight, which is that of a member without one.
const FULL_WEIGHT: u16 = 1_000;

/// A member of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference<'a> {
    /// A media type, a range of them, or a coding.
    pub name: &'a str,
    /// Its parameters but the weight.
    pub parameters: Vec<(&'a str, &'a str)>,
    /// How much it is wanted, in thousandths.
    pub weight: u16,
}

impl Preference<'_> {
    /// Whether it has this name.
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

/// The members of a header, of all its lines; those that cannot be read are left out.
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
            // What comes behind the weight says nothing of the type.
            break;
        }
        found.parameters.push((name, value));
    }
    Some(found)
}

/// A weight from 0 to 1, in thousandths.
fn weight(text: &str) -> Option<u16> {
    let is_decimal = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let weight: f64 = text.parse().ok().filter(|_| is_decimal)?;
    // Less than a thousandth is more than nothing.
    (weight <= 1.0).then(|| (weight * f64::from(FULL_WEIGHT)).ceil() as u16)
}

/// The parts of a text between separators that are not in quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut is_quoted = false;
    text.split(|char| {
        is_quoted ^= char == '"';
        char == separator && !is_quoted
    })
    .collect()
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
}
