//! The metadata of an event that is being mapped.

use std::borrow::Cow;

use super::object::Object;
use crate::event::metadata::MAX_KEYS;
use crate::event::text;

/// Most fields that are kept before the limits of metadata apply: these remove the largest first.
const MAX_FIELDS: usize = 2 * MAX_KEYS;

/// Properties that are about the browser, the device and the person rather than about the event.
const PRIVATE: [&str; 3] = ["ip", "useragent", "email"];

/// Traits that name a person, in lower case and without separators.
const PERSONAL: [&str; 9] = [
    "email",
    "phone",
    "name",
    "firstname",
    "lastname",
    "username",
    "address",
    "birthday",
    "avatar",
];

/// Treatment of traits that name a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Traits {
    /// They are left out.
    #[default]
    Drop,
    /// They are kept.
    Keep,
}

/// Fields in their order, with their values as JSON.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// A field was left out because there are too many, or a string of the event was cut.
    is_cut: bool,
}

impl<'a> Fields<'a> {
    /// Sets a field to some JSON; null leaves it as it is.
    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, json: &'a str) {
        self.put(name.into(), Cow::Borrowed(json));
    }

    /// Sets a field to some JSON if there is any.
    pub fn set_some(&mut self, name: &'static str, json: Option<&'a str>) {
        if let Some(json) = json {
            self.set(name, json);
        }
    }

    /// Sets a field to a string.
    pub fn set_text(&mut self, name: &'static str, value: &str) {
        let mut json = Vec::with_capacity(value.len() + 2);
        text::encode(value, &mut json);
        // The encoder writes UTF-8 only.
        let json = String::from_utf8_lossy(&json).into_owned();
        self.put(Cow::Borrowed(name), Cow::Owned(json));
    }

    /// Sets a field to true.
    pub fn mark(&mut self, name: &'static str) {
        self.put(Cow::Borrowed(name), Cow::Borrowed("true"));
    }

    /// Marks the event as cut.
    pub fn mark_cut(&mut self) {
        self.is_cut = true;
    }

    fn put(&mut self, name: Cow<'a, str>, json: Cow<'a, str>) {
        if json == "null" {
            return;
        }
        if let Some((_, value)) = self.fields.iter_mut().find(|(known, _)| *known == name) {
            *value = json;
        } else if self.fields.len() < MAX_FIELDS {
            self.fields.push((name, json));
        } else {
            self.is_cut = true;
        }
    }

    /// Sets the properties of an event, without those about browser and person, and
    /// without some names.
    pub fn set_properties(&mut self, properties: &Object<'a>, without: &[&str], traits: Traits) {
        for (name, json) in properties.members() {
            let is_left_out = without.contains(&&**name)
                || (traits == Traits::Drop || plain(name) != "email") && is_one_of(&PRIVATE, name);
            if !name.starts_with('$') && !is_left_out {
                self.set(name.clone(), json);
            }
        }
    }

    /// Sets traits of a person or a group, without those that name a person.
    pub fn set_traits(&mut self, traits: &Object<'a>, without: &[&str], keep: Traits) {
        for (name, json) in traits.members() {
            let is_left_out = without.contains(&&**name)
                || keep == Traits::Drop && is_one_of(&PERSONAL, name)
                || ["ip", "useragent"].contains(&&*plain(name));
            if !name.starts_with('$') && !is_left_out {
                self.set(name.clone(), json);
            }
        }
    }

    /// The fields as a JSON object. Its values are not compact.
    pub fn json(&self) -> String {
        let fields = self.fields.iter();
        let bytes: usize = fields.map(|(name, json)| name.len() + json.len() + 4).sum();
        let mut out = Vec::with_capacity(bytes + "{\"cut\":true}".len());
        out.push(b'{');
        let has_mark = self.fields.iter().any(|(name, _)| name == "cut");
        let mark = (self.is_cut && !has_mark).then_some(("cut", "true"));
        let fields = self.fields.iter().map(|(name, json)| (&**name, &**json));
        for (at, (name, json)) in fields.chain(mark).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            text::encode(name, &mut out);
            out.push(b':');
            out.extend_from_slice(json.as_bytes());
        }
        out.push(b'}');
        String::from_utf8(out).unwrap_or_default()
    }
}

fn is_one_of(names: &[&str], name: &str) -> bool {
    names.contains(&&*plain(name))
}

/// A name in lower case and without separators, so that `first_name` is `firstName`.
fn plain(name: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let letters = name.chars().filter(|char| !"_- .".contains(*char));
    Cow::Owned(letters.map(|char| char.to_ascii_lowercase()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_set_once_and_null_leaves_it() {
        let mut fields = Fields::default();
        fields.set("a", "1");
        fields.set("b", "[1, 2]");
        fields.set("a", "null");
        fields.set_text("c", "say \"hi\"");
        fields.set("b", "2");
        fields.mark("anonymous");
        fields.mark_cut();
        assert_eq!(
            fields.json(),
            r#"{"a":1,"b":2,"c":"say \"hi\"","anonymous":true,"cut":true}"#
        );
    }

    #[test]
    fn what_names_a_person_is_left_out_unless_it_is_to_be_kept() {
        let json = r#"{"plan":"team","Email":"m@b.example","first_name":"M","$set":1,"ip":"192.0.2.1",
            "userAgent":"x","address":{"city":"B"},"city":"B","user_agent":"x"}"#;
        let object = Object::read(json).expect("an object");
        let traits = |keep| {
            let mut fields = Fields::default();
            fields.set_traits(&object, &["city"], keep);
            fields.json()
        };
        assert_eq!(traits(Traits::Drop), r#"{"plan":"team"}"#);
        assert_eq!(
            traits(Traits::Keep),
            r#"{"plan":"team","Email":"m@b.example","first_name":"M","address":{"city":"B"}}"#
        );
        let properties = |keep| {
            let mut fields = Fields::default();
            fields.set_properties(&object, &["city", "address"], keep);
            fields.json()
        };
        assert_eq!(
            properties(Traits::Drop),
            r#"{"plan":"team","first_name":"M"}"#
        );
        assert_eq!(
            properties(Traits::Keep),
            r#"{"plan":"team","Email":"m@b.example","first_name":"M"}"#
        );
    }

    #[test]
    fn fields_beyond_the_limit_are_left_out_with_a_mark() {
        let members: Vec<String> = (0..900).map(|n| format!("\"k{n}\":{n}")).collect();
        let json = format!("{{{}}}", members.join(","));
        let mut fields = Fields::default();
        let object = Object::read(&json).expect("an object");
        fields.set_properties(&object, &[], Traits::Drop);
        let json = fields.json();
        assert!(json.ends_with(r#""k199":199,"cut":true}"#), "{json}");
    }
}
