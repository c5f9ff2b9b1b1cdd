//! Annotations: notes on dates, which charts over time show.

use chrono::NaiveDate;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{check_id, check_name, parse};
use crate::error::{Error, ErrorCode, Result, shown};
use crate::store::folder::Folder;
use crate::window::parse_day;

/// Its name in the data folder.
pub const FILE_NAME: &str = "annotations.json";
/// Most annotations: some a day for a year.
const MAX_ANNOTATIONS: usize = 1_000;

/// A note on a date or on several days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Annotation {
    /// Its id.
    #[schema(pattern = "^[a-z0-9-]{1,64}$")]
    pub id: String,
    /// The date, or the first one.
    pub date: NaiveDate,
    /// The last date, if it is about several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NaiveDate>,
    /// A line that says what happened.
    #[schema(min_length = 1, max_length = 200)]
    pub text: String,
}

/// An annotation as a client sends it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnotationRequest {
    /// As in the path, if given.
    #[serde(default)]
    pub id: Option<String>,
    /// The date, or the first one.
    #[serde(deserialize_with = "strict_day")]
    pub date: NaiveDate,
    /// The last date, if it is about several.
    #[serde(default, deserialize_with = "strict_last_day")]
    pub to: Option<NaiveDate>,
    /// A line that says what happened.
    #[schema(min_length = 1, max_length = 200)]
    pub text: String,
}

fn strict_day<'de, D: Deserializer<'de>>(day: D) -> Result<NaiveDate, D::Error> {
    parse_day(&String::deserialize(day)?).map_err(D::Error::custom)
}

fn strict_last_day<'de, D: Deserializer<'de>>(day: D) -> Result<Option<NaiveDate>, D::Error> {
    let day = Option::<String>::deserialize(day)?;
    day.map(|day| parse_day(&day).map_err(D::Error::custom))
        .transpose()
}

impl AnnotationRequest {
    /// Reads an annotation from JSON.
    ///
    /// # Errors
    /// `bad_annotation`, with the field, the value and what is allowed.
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse(json, ErrorCode::BadAnnotation)
    }
}

/// All annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Annotations {
    /// Sorted by date, then by id.
    pub annotations: Vec<Annotation>,
}

impl Annotations {
    /// Reads the annotations.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file does not match its checksum.
    pub fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(FILE_NAME)
    }

    /// Writes the annotations, durably.
    ///
    /// # Errors
    /// If the file cannot be written; then the old one is unchanged.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(FILE_NAME, self)
    }

    /// Creates or replaces an annotation.
    ///
    /// # Errors
    /// `bad_annotation` if it is wrong or there are too many.
    pub fn set(&mut self, id: &str, request: AnnotationRequest) -> Result<()> {
        let bad = |message: String| Error::bad_input(ErrorCode::BadAnnotation, message);
        check_id("id", id).map_err(bad)?;
        if let Some(other) = request.id.as_deref().filter(|other| *other != id) {
            let other = shown(other);
            return Err(bad(format!("id is {other:?}, and in the path {id:?}")));
        }
        check_name("text", &request.text).map_err(bad)?;
        if let Some(to) = request.to.filter(|to| *to < request.date) {
            let date = request.date;
            return Err(bad(format!("to is {to}; allowed is a day from {date} on")));
        }
        self.annotations.retain(|known| known.id != id);
        if self.annotations.len() >= MAX_ANNOTATIONS {
            return Err(bad(format!(
                "there are {MAX_ANNOTATIONS} annotations, which is the limit; remove one first"
            )));
        }
        self.annotations.push(Annotation {
            id: id.to_owned(),
            date: request.date,
            to: request.to,
            text: request.text,
        });
        self.annotations
            .sort_by(|one, other| (one.date, &one.id).cmp(&(other.date, &other.id)));
        Ok(())
    }

    /// Removes an annotation.
    ///
    /// # Errors
    /// `unknown_annotation`.
    pub fn remove(&mut self, id: &str) -> Result<()> {
        let before = self.annotations.len();
        self.annotations.retain(|known| known.id != id);
        if self.annotations.len() == before {
            let id = shown(id);
            return Err(Error::NotFound {
                code: ErrorCode::UnknownAnnotation,
                message: format!("there is no annotation {id:?}"),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(annotations: &mut Annotations, id: &str, body: &Value) -> Result<(), String> {
        let request = AnnotationRequest::parse(body.to_string().as_bytes());
        let set = request.and_then(|request| annotations.set(id, request));
        set.map_err(|error| error.to_string())
    }

    #[test]
    fn annotations_are_sorted_by_date_and_replaced_by_id() {
        let mut all = Annotations::default();
        let of = |date: &str, text: &str| json!({"date": date, "text": text});
        set(&mut all, "b", &of("2026-11-02", "Release 2")).expect("valid");
        set(&mut all, "a", &of("2026-11-05", "Outage")).expect("valid");
        set(&mut all, "a", &of("2026-11-01", "Release 1")).expect("valid");
        let found: Vec<&str> = all
            .annotations
            .iter()
            .map(|one| one.text.as_str())
            .collect();
        assert_eq!(found, ["Release 1", "Release 2"]);
        for (id, body, says) in [
            ("A", of("2026-11-01", "x"), "id is \"A\""),
            ("a", of("2026-11-31", "x"), "date: "),
            ("a", of("2026-11-01", ""), " is \"\""),
            ("a", of("2026-11-01", "a\nb"), " is \"a\\nb\""),
            ("a", json!({"date": "2026-11-01"}), "missing field `text`"),
            (
                "a",
                json!({"date": "2026-11-02", "to": "2026-11-01", "text": "x"}),
                "to is 2026-11-01",
            ),
        ] {
            let rejected = set(&mut all, id, &body).expect_err(says);
            assert!(rejected.contains(says), "{rejected}");
        }
        all.remove("a").expect("it exists");
        assert!(all.remove("a").is_err());
        assert_eq!(all.annotations.len(), 1);
    }
}
