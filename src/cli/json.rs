//! JSON of a server, printed as a command prints its own results: without parsing numbers, so that
//! they stay as they are.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::export::answer::TextColumn;
use crate::schema;

/// Compact JSON with the line breaks of `serde_json::to_string_pretty`.
pub fn pretty(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let (mut in_string, mut is_escaped) = (false, false);
    let new_line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    let mut bytes = json.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_string {
            out.push(byte);
            in_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                match bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        new_line(&mut out, depth);
                    }
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                new_line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            byte => out.push(byte),
        }
    }
    out
}

/// The fields of an object in their order, each with its JSON.
pub struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// The rows of a query's result as columns of a table, as those of a result in memory: the fields
/// of an object become columns, and so do the elements of a list.
///
/// # Errors
/// If it is not a list of rows.
pub fn columns(rows: &[Fields<'_>]) -> serde_json::Result<Vec<TextColumn>> {
    let mut columns: Vec<TextColumn> = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        for (name, value) in flat(row)? {
            let known = columns.iter().position(|column| column.name == name);
            let at = known.unwrap_or_else(|| {
                columns.push(TextColumn::new(name));
                columns.len() - 1
            });
            if let Some(column) = columns.get_mut(at) {
                column.cells.resize(place, None);
                column.is_text |= value.starts_with(['"', '{']);
                column.cells.push(match value {
                    "null" => None,
                    value if value.starts_with('"') => Some(serde_json::from_str(value)?),
                    value => Some(value.to_owned()),
                });
            }
        }
    }
    for column in &mut columns {
        column.cells.resize(rows.len(), None);
    }
    Ok(columns)
}

/// The values of a row that are not objects or lists, with their names.
fn flat<'a>(row: &Fields<'a>) -> serde_json::Result<Vec<(String, &'a str)>> {
    let mut flat = Vec::new();
    for (name, value) in &row.0 {
        let value = value.get();
        match value.as_bytes().first() {
            // Of single events, JSON as it was sent.
            Some(b'{') if name != schema::METADATA => {
                let inner: Fields<'a> = serde_json::from_str(value)?;
                let inner = inner.0.into_iter();
                flat.extend(inner.map(|(field, value)| (format!("{name}_{field}"), value.get())));
            }
            Some(b'[') => {
                // `cells` of a retention are `cell_0`, `cell_1` and so on.
                let name = name.strip_suffix('s').unwrap_or(name);
                let list: Vec<&'a RawValue> = serde_json::from_str(value)?;
                let list = list.into_iter().enumerate();
                flat.extend(list.map(|(place, value)| (format!("{name}_{place}"), value.get())));
            }
            _ => flat.push((name.clone(), value)),
        }
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn json_gets_the_line_breaks_of_a_command() -> serde_json::Result<()> {
        for value in [
            json!({"a": [1, 2.5, -1e300], "b": {}, "c": [], "d": {"e": [[], {}, null]}}),
            json!("a \"quoted\" {string}, with: \\ and \n"),
            json!({"\\\"": "\\", "b": [true, false]}),
            json!([]),
            json!(7),
        ] {
            let compact = serde_json::to_vec(&value)?;
            assert_eq!(pretty(&compact), serde_json::to_vec_pretty(&value)?);
        }
        Ok(())
    }

    #[test]
    fn rows_become_columns_in_their_order() -> serde_json::Result<()> {
        let rows = r#"[{"z":"x","n":1,"of":{"mean":2.5,"p90":null},"cells":[1.0,null]},
                       {"z":null,"n":20,"of":{"mean":0.1,"p90":3},"cells":[2.0,3.0]}]"#;
        let rows: Vec<Fields<'_>> = serde_json::from_str(rows)?;
        let columns = columns(&rows)?;
        let cells = |column: &TextColumn| json!(column.cells);
        let found: Vec<(&str, bool, Value)> = columns
            .iter()
            .map(|column| (column.name.as_str(), column.is_text, cells(column)))
            .collect();
        let expected = [
            ("z", true, json!(["x", null])),
            ("n", false, json!(["1", "20"])),
            ("of_mean", false, json!(["2.5", "0.1"])),
            ("of_p90", false, json!([null, "3"])),
            ("cell_0", false, json!(["1.0", "2.0"])),
            ("cell_1", false, json!([null, "3.0"])),
        ];
        assert_eq!(found, expected);
        Ok(())
    }
}
