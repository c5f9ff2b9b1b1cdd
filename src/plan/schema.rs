//! JSON Schemas of metadata, whose cost is bounded: no references, which could read files, use the
//! network, or expand without end; and patterns by the engine that needs linear time.

use jsonschema::{PatternOptions, Validator};
use serde_json::{Map, Value};

/// Most patterns of a plan.
const MAX_PATTERNS: usize = 200;
/// Most bytes of a compiled pattern.
const MAX_PATTERN_BYTES: usize = 256 << 10;
/// The keywords that refer to other schemas.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// Compiles the schemas of a plan, and counts their patterns.
#[derive(Default)]
pub struct Patterns {
    count: usize,
}

impl Patterns {
    /// Compiles a schema.
    ///
    /// # Errors
    /// A JSON pointer to the place and a sentence about what is wrong there.
    pub fn compile(&mut self, schema: &Map<String, Value>) -> Result<Validator, String> {
        let schema = Value::Object(schema.clone());
        self.inspect(&schema, &mut String::new())?;
        let options = PatternOptions::regex()
            .size_limit(MAX_PATTERN_BYTES)
            .dfa_size_limit(MAX_PATTERN_BYTES);
        jsonschema::options()
            .with_pattern_options(options)
            .build(&schema)
            .map_err(|error| format!("{}: {error}", error.instance_path()))
    }

    /// Rejects references, and counts patterns.
    fn inspect(&mut self, value: &Value, place: &mut String) -> Result<(), String> {
        let length = place.len();
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    place.push('/');
                    place.push_str(name);
                    if REFERENCES.contains(&name.as_str()) {
                        return Err(format!("{place}: references to schemas are not allowed"));
                    }
                    self.count += match (name.as_str(), value) {
                        ("pattern", Value::String(_)) => 1,
                        ("patternProperties", Value::Object(patterns)) => patterns.len(),
                        _ => 0,
                    };
                    if self.count > MAX_PATTERNS {
                        return Err(format!(
                            "{place}: the plan has more than {MAX_PATTERNS} patterns"
                        ));
                    }
                    self.inspect(value, place)?;
                    place.truncate(length);
                }
            }
            Value::Array(values) => {
                for (at, value) in values.iter().enumerate() {
                    place.push_str(&format!("/{at}"));
                    self.inspect(value, place)?;
                    place.truncate(length);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
