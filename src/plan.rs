//! The tracking plan: the event types, conversions and features that a product sends, the metadata
//! of each as a JSON Schema, and what becomes of events that do not follow it.
//!
//! One readable file in the data folder, replaced atomically. It is checked as a whole before it is
//! used; an event is validated without I/O.

mod file;
mod infer;
mod paths;
mod schema;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use jsonschema::Validator;

use crate::error::{Result, first_chars, shown};
use crate::event::{DeclaredTypes, Event, EventCode, EventType, MAX_FEATURE_CHARS};
use file::{MAX_EVENT_TYPES, MAX_PATHS, bad};
pub use file::{Mode, PathRule, Plan, Rule, Undeclared};
pub use infer::Observed;
use paths::Paths;

/// Longest description, in characters.
const MAX_DESCRIPTION_CHARS: usize = 2_000;
/// Longest message about an event.
const MAX_MESSAGE_CHARS: usize = 300;

/// A plan that is ready to validate events.
#[derive(Default)]
pub struct CheckedPlan {
    plan: Plan,
    types: DeclaredTypes,
    event_types: Rules,
    conversions: Rules,
    features: Rules,
    paths: Paths,
    /// False if every event passes.
    validates: bool,
}

type Rules = HashMap<String, CheckedRule>;

struct CheckedRule {
    /// `None` if every metadata passes.
    metadata: Option<Validator>,
    mode: Mode,
    /// Its place in the plan, for messages.
    place: String,
}

/// The outcome of validating an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It follows the plan.
    Passes,
    /// It does not, and is stored.
    Warns(EventCode, String),
    /// It does not, and goes to the quarantine.
    Quarantines(EventCode, String),
}

impl CheckedPlan {
    /// Checks a plan and compiles its schemas.
    ///
    /// # Errors
    /// `bad_plan`, with the place, the value and what is allowed.
    pub fn new(plan: Plan) -> Result<Self> {
        check_count("event_types", plan.event_types.len(), MAX_EVENT_TYPES)?;
        check_count("paths", plan.paths.len(), MAX_PATHS)?;
        for (at, rule) in plan.event_types.iter().enumerate() {
            let place = format!("event_types[{at}].name");
            DeclaredTypes::check_name(&rule.name)
                .map_err(|message| bad(format!("{place} {message}")))?;
        }
        for (at, rule) in plan.paths.iter().enumerate() {
            check_description(&format!("paths[{at}]"), &rule.description)?;
        }
        let mut patterns = schema::Patterns::default();
        let mut check = |list: &str, rules: &[Rule]| checked(list, rules, &mut patterns);
        let event_types = check("event_types", &plan.event_types)?;
        let conversions = check("conversions", &plan.conversions)?;
        let features = check("features", &plan.features)?;
        let rules = [&event_types, &conversions, &features];
        let has_schemas = rules
            .iter()
            .any(|rules| rules.values().any(|rule| rule.metadata.is_some()));
        let Undeclared {
            features: of_features,
            conversions: of_conversions,
        } = plan.undeclared;
        Ok(Self {
            types: DeclaredTypes::new(plan.event_types.iter().map(|rule| rule.name.clone())),
            validates: has_schemas || of_features.max(of_conversions) > Mode::Accept,
            paths: Paths::new(plan.paths.iter().map(|rule| rule.path.as_str())).map_err(bad)?,
            event_types,
            conversions,
            features,
            plan,
        })
    }

    /// The plan as it was written.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The types that it declares.
    pub fn types(&self) -> &DeclaredTypes {
        &self.types
    }

    /// True if the plan declares a conversion of this name. An event of another product's client,
    /// which knows no types, is a conversion then, and an action otherwise. That is decided when it
    /// comes in: a later plan does not change it.
    pub fn is_conversion(&self, name: &str) -> bool {
        self.conversions.contains_key(name)
    }

    /// Groups the path of a page view: its feature becomes the pattern. The URL stays.
    pub fn group_path(&self, event: &mut Event<'_>) {
        if event.event_type == EventType::PageView
            && let Some(feature) = &event.feature
            && let Some(pattern) = self.paths.group(feature)
        {
            event.feature = Some(Cow::Owned(pattern));
        }
    }

    /// Validates an event whose path is grouped. Of several rules that it does not follow, the
    /// strictest decides, and of equal ones the first: type, feature, metadata.
    pub fn validate(&self, event: &Event<'_>) -> Verdict {
        if !self.validates {
            return Verdict::Passes;
        }
        let mut found = (Mode::Accept, None);
        let mut note = |mode: Mode, code: EventCode, message: String| {
            if mode > found.0 {
                found = (mode, Some((code, message)));
            }
        };
        let is_conversion = event.event_type == EventType::Conversion;
        let (rules, undeclared, code) = match is_conversion {
            true => (
                &self.conversions,
                self.plan.undeclared.conversions,
                EventCode::PlanConversion,
            ),
            false => (
                &self.features,
                self.plan.undeclared.features,
                EventCode::PlanFeature,
            ),
        };
        let feature = event.feature.as_deref();
        let of_feature = feature.and_then(|feature| rules.get(feature));
        match feature {
            Some(feature) if of_feature.is_none() && event.event_type.uses_features() => {
                let list = if is_conversion {
                    "conversions"
                } else {
                    "features"
                };
                let feature = shown(feature);
                note(
                    undeclared,
                    code,
                    format!("feature is {feature:?}, which is not in {list} of the plan"),
                );
            }
            None if is_conversion => {
                note(
                    undeclared,
                    code,
                    "feature is missing; allowed are the conversions of the plan".into(),
                );
            }
            _ => {}
        }
        let of_type = self.event_types.get(event.event_type.name());
        let mut metadata = None;
        for rule in [of_type, of_feature].into_iter().flatten() {
            if let Some(schema) = &rule.metadata {
                let metadata = metadata.get_or_insert_with(|| {
                    // It is canonical JSON.
                    serde_json::from_str(&event.metadata).unwrap_or_default()
                });
                if let Err(error) = schema.validate(metadata) {
                    let (path, place) = (error.instance_path(), &rule.place);
                    // Without the value: it may be about a user.
                    let message =
                        format!("metadata{path}: {}; see {place}.metadata", error.masked());
                    let message = first_chars(&message, MAX_MESSAGE_CHARS).to_owned();
                    note(rule.mode, EventCode::PlanMetadata, message);
                }
            }
        }
        match found {
            (Mode::Quarantine, Some((code, message))) => Verdict::Quarantines(code, message),
            (_, Some((code, message))) => Verdict::Warns(code, message),
            (_, None) => Verdict::Passes,
        }
    }
}

fn check_count(list: &str, found: usize, most: usize) -> Result<()> {
    if found > most {
        return Err(bad(format!(
            "{list} has {found} entries; allowed are {most}"
        )));
    }
    Ok(())
}

/// Checks the entries of a list.
fn checked(list: &str, rules: &[Rule], patterns: &mut schema::Patterns) -> Result<Rules> {
    let mut found = Rules::new();
    let mut names = BTreeSet::new();
    for (at, rule) in rules.iter().enumerate() {
        let place = format!("{list}[{at}]");
        let chars = rule.name.chars().count();
        if !(1..=MAX_FEATURE_CHARS).contains(&chars) {
            return Err(bad(format!(
                "{place}.name has {chars} characters; allowed are 1 to {MAX_FEATURE_CHARS}"
            )));
        }
        if !names.insert(&rule.name) {
            let name = shown(&rule.name);
            return Err(bad(format!(
                "{place}.name is {name:?}, which is in {list} twice"
            )));
        }
        check_description(&place, &rule.description)?;
        let metadata = match &rule.metadata {
            Some(metadata) => {
                let compiled = patterns.compile(metadata);
                let compiled =
                    compiled.map_err(|message| bad(format!("{place}.metadata{message}")))?;
                // Compiled also if nothing follows from it, so that an error is found.
                (rule.mode > Mode::Accept).then_some(compiled)
            }
            None => None,
        };
        let mode = rule.mode;
        found.insert(
            rule.name.clone(),
            CheckedRule {
                metadata,
                mode,
                place,
            },
        );
    }
    Ok(found)
}

fn check_description(place: &str, description: &str) -> Result<()> {
    let chars = description.chars().count();
    if chars > MAX_DESCRIPTION_CHARS {
        return Err(bad(format!(
            "{place}.description has {chars} characters; allowed are {MAX_DESCRIPTION_CHARS}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::file::MAX_PLAN_BYTES;
    use super::*;
    use crate::event::Outcome;

    fn plan(json: &str) -> CheckedPlan {
        CheckedPlan::new(Plan::parse(json.as_bytes()).expect("a plan")).expect("a valid plan")
    }

    fn event<'a>(event_type: EventType<'a>, feature: &'a str, metadata: &'a str) -> Event<'a> {
        Event {
            ts_us: 0,
            event_type,
            user_id: None,
            feature: (!feature.is_empty()).then_some(feature.into()),
            metadata: metadata.into(),
            url: None,
            event_id: None,
            received_at_us: 0,
        }
    }

    const SHOP: &str = r#"{
        "event_types":[{"name":"signup","mode":"quarantine","metadata":{"required":["plan"]}}],
        "conversions":[{"name":"purchase","mode":"quarantine","metadata":{
            "type":"object","properties":{"amount":{"type":"number","minimum":0},
            "currency":{"type":"string","pattern":"^[A-Z]{3}$"}},"required":["amount"]}}],
        "features":[{"name":"search","description":"The search box"},
            {"name":"save","metadata":{"properties":{"size":{"type":"integer"}}}}],
        "undeclared":{"features":"warn","conversions":"quarantine"}}"#;

    #[test]
    fn events_are_validated_by_type_feature_and_metadata() {
        let plan = plan(SHOP);
        let signup = EventType::Declared("signup");
        let code = |event_type, feature, metadata| match plan
            .validate(&event(event_type, feature, metadata))
        {
            Verdict::Passes => "passes".to_owned(),
            Verdict::Warns(code, _) => format!("warns {code:?}"),
            Verdict::Quarantines(code, _) => format!("quarantines {code:?}"),
        };
        for (event_type, feature, metadata, expected) in [
            (
                EventType::Conversion,
                "purchase",
                r#"{"amount":9.5}"#,
                "passes",
            ),
            (
                EventType::Conversion,
                "purchase",
                r#"{"amount":-1}"#,
                "quarantines PlanMetadata",
            ),
            (
                EventType::Conversion,
                "purchase",
                "{}",
                "quarantines PlanMetadata",
            ),
            (
                EventType::Conversion,
                "purchase",
                r#"{"amount":1,"currency":"euro"}"#,
                "quarantines PlanMetadata",
            ),
            (
                EventType::Conversion,
                "trial",
                "{}",
                "quarantines PlanConversion",
            ),
            (
                EventType::Conversion,
                "",
                "{}",
                "quarantines PlanConversion",
            ),
            (EventType::Action, "search", r#"{"any":1}"#, "passes"),
            (
                EventType::Action,
                "save",
                r#"{"size":"big"}"#,
                "warns PlanMetadata",
            ),
            (EventType::Action, "other", "{}", "warns PlanFeature"),
            (EventType::Action, "", "{}", "passes"),
            (EventType::PageView, "any/page", "{}", "passes"),
            (EventType::System, "identify", "{}", "passes"),
            (signup, "search", "{}", "quarantines PlanMetadata"),
            // The stricter of two.
            (signup, "other", "{}", "quarantines PlanMetadata"),
            (signup, "other", r#"{"plan":"pro"}"#, "warns PlanFeature"),
        ] {
            assert_eq!(
                code(event_type, feature, metadata),
                expected,
                "{feature} {metadata}"
            );
        }
        let verdict = plan.validate(&event(
            EventType::Conversion,
            "purchase",
            r#"{"amount":"secret"}"#,
        ));
        let Verdict::Quarantines(_, message) = verdict else {
            panic!("{verdict:?}");
        };
        assert!(message.starts_with("metadata/amount: "), "{message}");
        assert!(
            message.ends_with("see conversions[0].metadata"),
            "{message}"
        );
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn an_empty_plan_lets_everything_pass() {
        let plan = plan("{}");
        assert_eq!(
            plan.validate(&event(EventType::Conversion, "", "{}")),
            Verdict::Passes
        );
        assert!(plan.types().is_empty());
        assert!(!plan.is_conversion("purchase"));
    }

    #[test]
    fn names_of_declared_conversions_are_known_whatever_their_mode() {
        let json = r#"{"conversions":[{"name":"Order Completed"},{"name":"trial","mode":"accept"}],
            "features":[{"name":"search"}]}"#;
        let plan = plan(json);
        let names = ["Order Completed", "trial", "order completed", "search", ""];
        let found = names.map(|name| plan.is_conversion(name));
        assert_eq!(found, [true, true, false, false, false]);
    }

    #[test]
    fn system_events_need_a_declaration_and_follow_it() {
        let json = r#"{"event_types":[{"name":"system","mode":"quarantine",
            "metadata":{"required":["source"]}}]}"#;
        let plan = plan(json);
        let raw = || crate::event::read_event(br#"{"event_type":"system","feature":"identify"}"#);
        let validated = raw().map(|raw| raw.validate_among(plan.types(), 1, 0));
        let Ok(Outcome::Accepted(event, _)) = validated else {
            panic!("{validated:?}");
        };
        assert_eq!(event.event_type, EventType::System);
        assert!(matches!(
            plan.validate(&event),
            Verdict::Quarantines(EventCode::PlanMetadata, _)
        ));
        // An identity call is the use of no feature.
        let strict = self::plan(r#"{"undeclared":{"features":"quarantine"}}"#);
        assert_eq!(strict.validate(&event), Verdict::Passes);
        let undeclared = raw().map(|raw| raw.validate(1, 0));
        assert!(matches!(
            undeclared,
            Ok(Outcome::Rejected(EventCode::BadEventType, _))
        ));
    }

    #[test]
    fn a_wrong_plan_is_an_error_that_names_the_place() {
        for (json, place) in [
            ("[]", "not a JSON object"),
            ("{} {}", "trailing characters"),
            (r#"{"eventtypes":[]}"#, "unknown field `eventtypes`"),
            (
                r#"{"features":[{"name":"a"},{"name":7}]}"#,
                "features[1].name",
            ),
            (
                r#"{"features":[{"name":"a","mode":"drop"}]}"#,
                "features[0].mode",
            ),
            (
                r#"{"features":[{"name":"a"},{"name":"a"}]}"#,
                "features[1].name is \"a\"",
            ),
            (
                r#"{"features":[{"name":""}]}"#,
                "features[0].name has 0 characters",
            ),
            (
                r#"{"event_types":[{"name":"a\"b"}]}"#,
                "event_types[0].name contains '\"'",
            ),
            (
                r#"{"features":[{"name":"a","metadata":{"properties":{"x":{"type":"text"}}}}]}"#,
                "features[0].metadata/properties/x/type",
            ),
            (
                r#"{"features":[{"name":"a","metadata":{"$ref":"file:///etc/passwd"}}]}"#,
                "features[0].metadata/$ref",
            ),
            (
                r##"{"features":[{"name":"a","metadata":{"allOf":[{"$ref":"#"},{"$ref":"#"}]}}]}"##,
                "features[0].metadata/allOf/0/$ref",
            ),
            (
                r#"{"features":[{"name":"a","metadata":{"$schema":"https://example.com/own"}}]}"#,
                "features[0].metadata",
            ),
            (
                r#"{"features":[{"name":"a","metadata":{"properties":{"x":{"pattern":"(a"}}}}]}"#,
                "features[0].metadata/properties/x/pattern",
            ),
            // A reference to an earlier group would need more than linear time.
            (
                r#"{"features":[{"name":"a","metadata":{"properties":{"x":{"pattern":"(a+)\\1"}}}}]}"#,
                "features[0].metadata/properties/x/pattern",
            ),
            (
                r#"{"features":[{"name":"a","metadata":{"properties":{"x":{"pattern":"((a{500}){500}){500}"}}}}]}"#,
                "features[0].metadata/properties/x/pattern",
            ),
            (r#"{"paths":[{"path":"order/:id"}]}"#, "paths[0].path"),
            (
                r#"{"undeclared":{"features":"never"}}"#,
                "undeclared.features",
            ),
        ] {
            let found = Plan::parse(json.as_bytes()).and_then(CheckedPlan::new);
            let message = found
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(
                message.contains(place),
                "{json}: {message:?}, expected {place}"
            );
        }
        let many = (0..=MAX_EVENT_TYPES).map(|n| format!("{{\"name\":\"t{n}\"}}"));
        let many: Vec<String> = many.collect();
        let plan = Plan::parse(format!("{{\"event_types\":[{}]}}", many.join(",")).as_bytes());
        assert!(plan.and_then(CheckedPlan::new).is_err());
        let long = format!("{{\"features\":[]{}}}", " ".repeat(MAX_PLAN_BYTES));
        assert!(Plan::parse(long.as_bytes()).is_err());
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let plan = Plan::parse(SHOP.as_bytes()).expect("a plan");
        let json = serde_json::to_vec(&plan).expect("JSON");
        assert_eq!(Plan::parse(&json).expect("the same"), plan);
    }
}
