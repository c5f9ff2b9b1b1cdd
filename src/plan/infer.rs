//! A plan of the events that are there: a start for the person who writes one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::file::{self, Mode, PathRule, Plan, Rule};
use crate::event::{EventType, SYSTEM_NAME, path};

/// Most names that are observed.
const MAX_NAMES: usize = 10_000;
/// Most metadata keys of a name that are observed.
const MAX_KEYS: usize = 100;
/// Most distinct paths that are observed.
const MAX_PATHS: usize = 50_000;
/// Most entries of an inferred plan, the most used ones: a person reads them.
const MAX_LISTED: usize = 300;
/// A key of all of at least so many events is required.
const REQUIRED_EVENTS: u64 = 20;
/// A path of at least so many pages is a rule.
const GROUPED_PAGES: usize = 3;
/// Least hexadecimal digits of an id.
const MIN_HEX_DIGITS: usize = 16;

/// Observations of events.
#[derive(Default)]
pub struct Observed {
    /// By event type, those that need no declaration excluded.
    types: BTreeMap<String, u64>,
    conversions: BTreeMap<String, Uses>,
    features: BTreeMap<String, Uses>,
    /// Pages by their path with the ids replaced.
    pages: BTreeMap<String, BTreeSet<String>>,
    paths: usize,
}

/// The events of one name.
#[derive(Default)]
struct Uses {
    events: u64,
    keys: BTreeMap<String, Key>,
}

/// The values of a metadata key.
#[derive(Default)]
struct Key {
    events: u64,
    /// Types of JSON Schema.
    types: BTreeSet<&'static str>,
}

impl Observed {
    /// Adds an event.
    pub fn add(&mut self, event_type: &str, feature: Option<&str>, metadata: &str) {
        if event_type == SYSTEM_NAME {
            return;
        }
        let known = EventType::undeclared(event_type);
        if known.is_none() {
            *self.types.entry(event_type.to_owned()).or_default() += 1;
        }
        let Some(feature) = feature else {
            return;
        };
        match known {
            Some(EventType::PageView) => self.add_page(feature),
            Some(EventType::Conversion) => add_use(&mut self.conversions, feature, metadata),
            _ => add_use(&mut self.features, feature, metadata),
        }
    }

    fn add_page(&mut self, page: &str) {
        if self.paths >= MAX_PATHS {
            return;
        }
        let segments: Vec<&str> = page.trim_matches('/').split('/').collect();
        let is_id: Vec<bool> = segments.iter().map(|segment| is_id(segment)).collect();
        if !is_id.contains(&true) || segments.contains(&"") || page.contains(['?', '#']) {
            return;
        }
        let grouped = segments.iter().zip(is_id);
        let grouped: String = grouped
            .map(|(segment, is_id)| {
                if is_id {
                    "/:id".into()
                } else {
                    format!("/{segment}")
                }
            })
            .collect();
        let pages = self.pages.entry(grouped).or_default();
        self.paths += usize::from(pages.insert(page.to_owned()));
    }

    /// The plan: what was observed, and the rest of a plan that is in use.
    pub fn plan(self, current: &Plan) -> Plan {
        let types = self.types.into_keys().map(|name| Rule {
            name,
            ..Rule::default()
        });
        let groups = self.pages.into_iter();
        let groups = groups.filter(|(_, pages)| pages.len() >= GROUPED_PAGES);
        let paths = groups.map(|(path, _)| PathRule {
            path,
            description: String::new(),
        });
        let mut plan = Plan {
            event_types: merged(&current.event_types, types, |rule| &rule.name),
            conversions: merged(&current.conversions, rules(self.conversions), |rule| {
                &rule.name
            }),
            features: merged(&current.features, rules(self.features), |rule| &rule.name),
            paths: merged(&current.paths, paths, |rule| &rule.path),
            undeclared: current.undeclared,
        };
        plan.event_types.truncate(file::MAX_EVENT_TYPES);
        plan.paths.truncate(file::MAX_PATHS);
        // Long names and many keys are rare.
        while serde_json::to_vec(&plan).is_ok_and(|json| json.len() > file::MAX_PLAN_BYTES)
            && !(plan.features.is_empty() && plan.conversions.is_empty())
        {
            plan.features.truncate(plan.features.len() / 2);
            plan.conversions.truncate(plan.conversions.len() / 2);
        }
        plan
    }
}

fn add_use(names: &mut BTreeMap<String, Uses>, name: &str, metadata: &str) {
    if !names.contains_key(name) {
        if names.len() >= MAX_NAMES {
            return;
        }
        names.insert(name.to_owned(), Uses::default());
    }
    let Some(uses) = names.get_mut(name) else {
        return;
    };
    uses.events += 1;
    for (key, value) in path::entries(metadata) {
        // A key is JSON, as the metadata has it.
        let Ok(key) = serde_json::from_str::<String>(key) else {
            continue;
        };
        if uses.keys.len() >= MAX_KEYS && !uses.keys.contains_key(&key) {
            continue;
        }
        let key = uses.keys.entry(key).or_default();
        key.events += 1;
        key.types.insert(match value.as_bytes().first() {
            Some(b'"') => "string",
            Some(b'{') => "object",
            Some(b'[') => "array",
            Some(b't' | b'f') => "boolean",
            Some(b'n') => "null",
            _ => "number",
        });
    }
}

/// The entries of a plan in use, and then those that it lacks.
fn merged<T: Clone>(
    current: &[T],
    observed: impl Iterator<Item = T>,
    name: impl Fn(&T) -> &String,
) -> Vec<T> {
    let mut all = current.to_vec();
    let known: BTreeSet<&String> = current.iter().map(&name).collect();
    all.extend(observed.filter(|one| !known.contains(name(one))));
    all
}

/// The most used names, each with the schema that all of its events match.
fn rules(names: BTreeMap<String, Uses>) -> impl Iterator<Item = Rule> {
    let mut names: Vec<(String, Uses)> = names.into_iter().collect();
    // Stable: equal ones stay in the order of names.
    names.sort_by_key(|(_, uses)| std::cmp::Reverse(uses.events));
    names.truncate(MAX_LISTED);
    names.into_iter().map(|(name, uses)| Rule {
        name,
        description: String::new(),
        metadata: schema(&uses),
        mode: Mode::Warn,
    })
}

/// The schema of the metadata; none without keys.
fn schema(uses: &Uses) -> Option<Map<String, Value>> {
    if uses.keys.is_empty() {
        return None;
    }
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, key) in &uses.keys {
        let mut types = key.types.iter();
        let types = match (types.next(), types.next()) {
            (Some(only), None) => json!(only),
            _ => json!(key.types),
        };
        properties.insert(name.clone(), json!({"type": types}));
        if key.events == uses.events && uses.events >= REQUIRED_EVENTS {
            required.push(json!(name));
        }
    }
    let mut schema = Map::new();
    schema.insert("properties".into(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".into(), Value::Array(required));
    }
    Some(schema)
}

/// True for a segment of a path that is an id: a number, a UUID, or a long hexadecimal number.
fn is_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let is_uuid = segment.len() == 36
        && segment.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && segment
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    let is_hex = segment.len() >= MIN_HEX_DIGITS
        && digits > 0
        && segment.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits > 0 && (digits == segment.len() || is_uuid || is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::CheckedPlan;

    #[test]
    fn a_plan_is_inferred_that_all_observed_events_follow() {
        let mut observed = Observed::default();
        for n in 0..30 {
            let purchase = match n {
                0 => format!(r#"{{"amount":{n},"coupon":"x"}}"#),
                1 => r#"{"amount":"free"}"#.to_owned(),
                _ => format!(r#"{{"amount":{n}.5}}"#),
            };
            observed.add("conversion", Some("purchase"), &purchase);
            observed.add("page_view", Some(&format!("order/{n}")), "{}");
            observed.add("page_view", Some("about"), "{}");
        }
        observed.add("page_view", Some("/item/7"), "{}");
        observed.add("action", Some("search"), "{}");
        observed.add("signup", None, r#"{"plan":"pro"}"#);
        let current = Plan::parse(br#"{"features":[{"name":"search","description":"The box"}]}"#);
        let plan = observed.plan(&current.expect("a plan"));
        let expected = json!({
            "event_types": [{"name":"signup","mode":"warn"}],
            "conversions": [{"name":"purchase","mode":"warn","metadata":{
                "properties":{"amount":{"type":["number","string"]},"coupon":{"type":"string"}},
                "required":["amount"]}}],
            "features": [{"name":"search","description":"The box","mode":"warn"}],
            "paths": [{"path":"/order/:id"}],
            "undeclared": {"features":"accept","conversions":"accept"},
        });
        assert_eq!(serde_json::to_value(&plan).expect("JSON"), expected);
        assert!(CheckedPlan::new(plan).is_ok());
    }

    #[test]
    fn ids_are_told_from_words() {
        for id in [
            "17",
            "0190163d-8694-739b-aea5-966c26f8ad91",
            "507f1f77bcf86cd799439011",
        ] {
            assert!(is_id(id), "{id}");
        }
        for word in ["order", "v2", "2024-03", "", "deadbeefdeadbeef", "a-b-c"] {
            assert!(!is_id(word), "{word}");
        }
    }
}
