//! Paths to values in metadata: a key, or keys joined by dots.
//!
//! The objects are canonical ([`super::metadata::canonical`]), so that values are found without
//! parsing the object into a tree.

use std::borrow::Cow;

use memchr::memmem;

use super::number;
use super::text::{self, Escapes};

/// A path to a value in metadata. A literal key takes precedence: `a.b` is the key `a.b` and, if
/// an object has no such key, the key `b` of the object under `a`. In an array the path continues
/// in each element.
#[derive(Debug, Clone)]
pub struct Path {
    path: String,
    /// Searches the end of the last key with its colon, which every object with the path contains.
    finder: memmem::Finder<'static>,
}

impl Path {
    /// Parses a path. The empty string is the empty key.
    pub fn new(path: &str) -> Self {
        let last = path.rsplit('.').next().unwrap_or_default();
        let mut end = Vec::with_capacity(last.len() + 3);
        text::encode(last, &mut end);
        end.push(b':');
        let end = end.get(1..).unwrap_or_default();
        Self {
            path: path.to_owned(),
            finder: memmem::Finder::new(end).into_owned(),
        }
    }

    /// The value in an object, as [`string_of`] it. `None` if it is missing or null.
    pub fn value_in<'a>(&self, object: &'a str) -> Option<Cow<'a, str>> {
        let mut found = None;
        self.any(object, &mut |value| {
            found = string_of(value);
            true
        });
        found
    }

    /// True if one of the values in an object meets a condition on its JSON. An array is tested
    /// first, then each of its elements. Null does not count as a value.
    pub fn any<'a>(&self, object: &'a str, meets: &mut dyn FnMut(&'a str) -> bool) -> bool {
        // This search alone skips most objects without the path.
        self.finder.find(object.as_bytes()).is_some() && any_at(&self.path, object, meets)
    }
}

/// A canonical value as a string: decoded if it is a string, in canonical notation if it is a
/// number, and as JSON otherwise. `None` for null.
pub fn string_of(value: &str) -> Option<Cow<'_, str>> {
    match value.as_bytes().first()? {
        b'"' => text::decode(value, Escapes::of(value)),
        b'-' | b'0'..=b'9' => Some(number::canonical(value)),
        _ if value == "null" => None,
        _ => Some(Cow::Borrowed(value)),
    }
}

/// Iterates over the keys and values of a canonical object, as JSON.
pub fn entries(object: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = object.strip_prefix('{').unwrap_or_default();
    std::iter::from_fn(move || {
        let (key, after_key) = rest.split_at_checked(string_length(rest))?;
        let (value, after) = split_value(after_key.strip_prefix(':')?)?;
        rest = after;
        Some((key, value))
    })
}

/// Iterates over the elements of a canonical array, as JSON.
fn elements(array: &str) -> impl Iterator<Item = &str> {
    let mut rest = array.strip_prefix('[').unwrap_or_default();
    std::iter::from_fn(move || {
        let (element, after) = split_value(rest).filter(|(element, _)| !element.is_empty())?;
        rest = after;
        Some(element)
    })
}

fn any_at<'a>(path: &str, json: &'a str, meets: &mut dyn FnMut(&'a str) -> bool) -> bool {
    if json.starts_with('[') {
        return elements(json).any(|element| any_at(path, element, meets));
    }
    let mut inner = Vec::new();
    for (key, value) in entries(json) {
        let Some(key) = text::decode(key, Escapes::Some) else {
            continue;
        };
        if *key == *path {
            return any_of(value, meets);
        }
        let others = path.strip_prefix(&*key);
        if let Some(others) = others.and_then(|others| others.strip_prefix('.')) {
            inner.push((others, value));
        }
    }
    inner
        .into_iter()
        .any(|(path, value)| any_at(path, value, meets))
}

/// True if a value, or an element of it if it is an array, meets a condition on its JSON. Null does
/// not count as a value.
pub fn any_of<'a>(value: &'a str, meets: &mut dyn FnMut(&'a str) -> bool) -> bool {
    value != "null"
        && (meets(value)
            || (value.starts_with('[') && elements(value).any(|element| any_of(element, meets))))
}

/// The same for the values at a path below a value, which is an object or an array.
pub fn any_below<'a>(path: &str, value: &'a str, meets: &mut dyn FnMut(&'a str) -> bool) -> bool {
    any_at(path, value, meets)
}

/// Calls `sink` with each string, number and boolean in a canonical value and the path to it, which
/// begins with `path`. A value in an array has the path of the array.
pub fn for_each_scalar(path: &mut String, value: &str, sink: &mut dyn FnMut(&str, &str)) {
    match value.as_bytes().first() {
        Some(b'{') => {
            for (key, inner) in entries(value) {
                if let Some(key) = text::decode(key, Escapes::Some) {
                    let length = path.len();
                    path.push('.');
                    path.push_str(&key);
                    for_each_scalar(path, inner, sink);
                    path.truncate(length);
                }
            }
        }
        Some(b'[') => elements(value).for_each(|element| for_each_scalar(path, element, sink)),
        Some(_) if value != "null" => sink(path, value),
        _ => {}
    }
}

/// Splits off the canonical value at the start of `json`, and the comma after it.
fn split_value(json: &str) -> Option<(&str, &str)> {
    let (value, after) = json.split_at_checked(value_length(json))?;
    Some((value, after.strip_prefix(',').unwrap_or_default()))
}

/// Length in bytes of the canonical value at the start of `json`.
fn value_length(json: &str) -> usize {
    let bytes = json.as_bytes();
    let mut depth = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at += string_length(json.get(at..).unwrap_or_default()),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b',' | b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Length in bytes, quotes included, of the JSON string at the start of `json`.
pub(super) fn string_length(json: &str) -> usize {
    let bytes = json.as_bytes();
    let mut at = 1;
    while let Some(offset) = bytes
        .get(at..)
        .and_then(|rest| memchr::memchr2(b'"', b'\\', rest))
    {
        at += offset;
        if bytes.get(at) == Some(&b'"') {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_an_object_are_those_of_the_first_level() {
        for (object, expected) in [
            ("{}", vec![]),
            (r#"{"a":1}"#, vec![(r#""a""#, "1")]),
            (
                r#"{"a":{"x":"}"},"b\"c":[{"y":1}],"":"q\",\"z\":","é":null}"#,
                vec![
                    (r#""a""#, r#"{"x":"}"}"#),
                    (r#""b\"c""#, r#"[{"y":1}]"#),
                    (r#""""#, r#""q\",\"z\":""#),
                    (r#""é""#, "null"),
                ],
            ),
            ("", vec![]),
        ] {
            assert_eq!(entries(object).collect::<Vec<_>>(), expected, "{object}");
        }
        assert_eq!(elements("[]").count(), 0);
        let array = r#"[1,"a,]",[2,3],{"b":[4]}]"#;
        let expected = ["1", r#""a,]""#, "[2,3]", r#"{"b":[4]}"#];
        assert_eq!(elements(array).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn scalars_have_the_path_by_which_they_are_found() {
        let object =
            r#"{"a":{"b":1,"c":[true,{"d":"x"},null]},"e.f":"y","":[],"n":null,"k\"":{"":2}}"#;
        let mut found = Vec::new();
        for_each_scalar(&mut String::from("metadata"), object, &mut |path, json| {
            found.push((path.to_owned(), json.to_owned()));
        });
        let expected = [
            ("metadata.a.b", "1"),
            ("metadata.a.c", "true"),
            ("metadata.a.c.d", r#""x""#),
            ("metadata.e.f", r#""y""#),
            ("metadata.k\".", "2"),
        ];
        assert_eq!(
            found,
            expected.map(|(path, json)| (path.to_owned(), json.to_owned()))
        );
        for (path, json) in found {
            let path = path.strip_prefix("metadata.").expect("the start");
            let finds = |wanted: &str| Path::new(path).any(object, &mut |value| value == wanted);
            assert!(finds(&json), "{path}");
        }
    }

    #[test]
    fn a_key_without_dots_is_found_on_the_first_level_alone() {
        let object = r#"{"a":{"plan":"deep"},"t":"\"plan\":1","n":1.50,"plan":"p\"ro","z":null,"l":[1,{"x":2}],"":true}"#;
        for (path, expected) in [
            ("plan", Some("p\"ro")),
            ("n", Some("1.5")),
            ("z", None),
            ("l", Some(r#"[1,{"x":2}]"#)),
            ("x", None),
            ("a", Some(r#"{"plan":"deep"}"#)),
            ("missing", None),
            ("", Some("true")),
        ] {
            assert_eq!(
                Path::new(path).value_in(object).as_deref(),
                expected,
                "{path}"
            );
        }
        assert_eq!(Path::new("a").value_in("{}"), None);
        assert_eq!(Path::new("a").value_in(r#"{"a":"#), None);
        assert_eq!(Path::new("a").value_in(r#"{"b":"a"}"#), None);
        assert_eq!(
            Path::new("a\"b").value_in(r#"{"a\"b":true}"#).as_deref(),
            Some("true")
        );
    }

    #[test]
    fn a_path_leads_into_objects_and_arrays_unless_the_literal_key_exists() {
        for (path, object, expected) in [
            ("a.b", r#"{"a":{"b":1}}"#, Some("1")),
            ("a.b", r#"{"a":{"b":1},"a.b":2}"#, Some("2")),
            ("a.b.c", r#"{"a.b":{"c":1}}"#, Some("1")),
            ("a.b.c", r#"{"a":{"b.c":1}}"#, Some("1")),
            ("a.b.c", r#"{"a.b":{"x":1},"a":{"b":{"c":2}}}"#, Some("2")),
            ("a.b", r#"{"a":1,"b":2}"#, None),
            ("a.b", r#"{"a":{"b":null}}"#, None),
            ("a.", r#"{"a":{"":1}}"#, Some("1")),
            (".a", r#"{"":{"a":1}}"#, Some("1")),
            (".", r#"{"":{"":1}}"#, Some("1")),
            ("é\n.ü", r#"{"é\n":{"ü":1}}"#, Some("1")),
            (
                "items.sku",
                r#"{"items":[{"id":1},{"sku":"x"}]}"#,
                Some("x"),
            ),
            ("b", r#"{"a":{"b":1}}"#, None),
        ] {
            assert_eq!(
                Path::new(path).value_in(object).as_deref(),
                expected,
                "{path} of {object}"
            );
        }
    }

    #[test]
    fn an_array_meets_a_condition_by_itself_or_by_an_element() {
        let has = |object: &str, wanted: &str| {
            Path::new("l").any(object, &mut |value| {
                string_of(value).as_deref() == Some(wanted)
            })
        };
        for (object, wanted, expected) in [
            (r#"{"l":["a","b"]}"#, "b", true),
            (r#"{"l":["a","b"]}"#, "c", false),
            (r#"{"l":[1,2.0]}"#, "2", true),
            (r#"{"l":[[1],[2]]}"#, "2", true),
            (r#"{"l":[]}"#, "", false),
            (r#"{"l":[null]}"#, "null", false),
            (r#"{"l":[1,2]}"#, "[1,2]", true),
        ] {
            assert_eq!(has(object, wanted), expected, "{wanted} in {object}");
        }
    }
}
