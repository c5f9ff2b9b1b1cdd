//! Checkpoints: all actions of a table as one Parquet file, so that a reader needs few files of the
//! log. Polars cannot write maps, therefore this uses the crate `parquet`.
//!
//! A row is an action. Rows are converted from and to JSON by the schema alone, so that a
//! checkpoint and a commit are read by the same code.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray,
    StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use axum::body::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record;
use serde_json::{Map, Value};

use super::action::Action;
use crate::error::Result;
use crate::export::failed;

/// Encodes actions.
///
/// # Errors
/// If they cannot be encoded.
pub fn encode(actions: &[Action]) -> Result<Vec<u8>> {
    let rows = actions.iter().map(serde_json::to_value);
    let rows: Vec<Value> = rows.collect::<Result<_, _>>().map_err(failed)?;
    let rows: Vec<Option<&Value>> = rows.iter().map(Some).collect();
    let fields = fields();
    let columns = columns(&fields, &rows)?;
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns).map_err(failed)?;
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

/// Decodes actions.
///
/// # Errors
/// A sentence about what is wrong with the file.
pub fn decode(bytes: Vec<u8>) -> Result<Vec<Action>, String> {
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    let reader = SerializedFileReader::new(Bytes::from(bytes)).map_err(|error| wrong(&error))?;
    let rows = reader.get_row_iter(None).map_err(|error| wrong(&error))?;
    rows.map(|row| {
        let row = row.map_err(|error| wrong(&error))?;
        serde_json::from_value(object(&row)).map_err(|error| wrong(&error))
    })
    .collect()
}

/// The columns of a checkpoint. Names of lists and maps are those of the Parquet specification.
fn fields() -> Fields {
    let field = |name: &str, of: DataType| Field::new(name, of, true);
    let string = |name: &str| field(name, DataType::Utf8);
    let long = |name: &str| field(name, DataType::Int64);
    let whole = |name: &str| field(name, DataType::Int32);
    let flag = |name: &str| field(name, DataType::Boolean);
    let record = |name: &str, of: Vec<Field>| field(name, DataType::Struct(of.into()));
    let strings = |name: &str| {
        let entry = vec![Field::new("key", DataType::Utf8, false), string("value")];
        let entries = Field::new("key_value", DataType::Struct(entry.into()), false);
        field(name, DataType::Map(Arc::new(entries), false))
    };
    let list = |name: &str| field(name, DataType::List(Arc::new(string("element"))));
    vec![
        record(
            "txn",
            vec![string("appId"), long("version"), long("lastUpdated")],
        ),
        record(
            "add",
            vec![
                string("path"),
                strings("partitionValues"),
                long("size"),
                long("modificationTime"),
                flag("dataChange"),
                string("stats"),
            ],
        ),
        record(
            "remove",
            vec![
                string("path"),
                long("deletionTimestamp"),
                flag("dataChange"),
                flag("extendedFileMetadata"),
                strings("partitionValues"),
                long("size"),
                strings("tags"),
            ],
        ),
        record(
            "metaData",
            vec![
                string("id"),
                string("name"),
                record("format", vec![string("provider"), strings("options")]),
                string("schemaString"),
                list("partitionColumns"),
                strings("configuration"),
                long("createdTime"),
            ],
        ),
        record(
            "protocol",
            vec![whole("minReaderVersion"), whole("minWriterVersion")],
        ),
    ]
    .into()
}

fn columns(fields: &Fields, rows: &[Option<&Value>]) -> Result<Vec<ArrayRef>> {
    let column = |field: &Arc<Field>| {
        let values = rows
            .iter()
            .map(|row| row.and_then(|row| row.get(field.name())));
        let values: Vec<_> = values
            .map(|value| value.filter(|value| !value.is_null()))
            .collect();
        array(field.data_type(), &values)
    };
    fields.iter().map(column).collect()
}

/// The values of a column, `None` for null.
fn array(of: &DataType, values: &[Option<&Value>]) -> Result<ArrayRef> {
    let nulls = || Some(NullBuffer::from_iter(values.iter().map(Option::is_some)));
    let long = |value: &Option<&Value>| value.and_then(Value::as_i64);
    Ok(match of {
        DataType::Struct(fields) => {
            let columns = columns(fields, values)?;
            Arc::new(StructArray::try_new(fields.clone(), columns, nulls()).map_err(failed)?)
        }
        DataType::List(element) => {
            let lists = values.iter().map(|value| value.and_then(Value::as_array));
            let elements = lists.clone().flatten().flatten().map(Some);
            let elements = array(element.data_type(), &elements.collect::<Vec<_>>())?;
            let offsets = OffsetBuffer::from_lengths(lists.map(|list| list.map_or(0, Vec::len)));
            let list = ListArray::try_new(element.clone(), offsets, elements, nulls());
            Arc::new(list.map_err(failed)?)
        }
        DataType::Map(entries, is_sorted) => {
            let maps = values.iter().map(|value| value.and_then(Value::as_object));
            let of_map = maps.clone().flatten().flatten();
            let keys: StringArray = of_map.clone().map(|(key, _)| Some(key)).collect();
            let texts: StringArray = of_map.map(|(_, value)| value.as_str()).collect();
            let offsets = OffsetBuffer::from_lengths(maps.map(|map| map.map_or(0, Map::len)));
            let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(texts)];
            let fields = match entries.data_type() {
                DataType::Struct(fields) => fields.clone(),
                _ => Fields::empty(),
            };
            let of_entries = StructArray::try_new(fields, columns, None).map_err(failed)?;
            let map = MapArray::try_new(entries.clone(), offsets, of_entries, nulls(), *is_sorted);
            Arc::new(map.map_err(failed)?)
        }
        DataType::Int64 => Arc::new(values.iter().map(long).collect::<Int64Array>()),
        DataType::Int32 => {
            let whole = values.iter().map(|value| i32::try_from(long(value)?).ok());
            Arc::new(whole.collect::<Int32Array>())
        }
        DataType::Boolean => {
            let flags = values.iter().map(|value| value.and_then(Value::as_bool));
            Arc::new(flags.collect::<BooleanArray>())
        }
        _ => {
            let strings = values.iter().map(|value| value.and_then(Value::as_str));
            Arc::new(strings.collect::<StringArray>())
        }
    })
}

/// The columns of a row that are not null, as a JSON object.
fn object(row: &record::Row) -> Value {
    let columns = row.get_column_iter();
    let columns = columns.map(|(name, field)| (name.clone(), value(field)));
    Value::Object(columns.filter(|(_, value)| !value.is_null()).collect())
}

fn value(field: &record::Field) -> Value {
    use record::Field;
    match field {
        Field::Bool(flag) => (*flag).into(),
        Field::Int(whole) => (*whole).into(),
        Field::Long(long) => (*long).into(),
        Field::Str(string) => string.as_str().into(),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let entries = map.entries().iter().map(|(key, of_key)| {
                let key = value(key).as_str().unwrap_or_default().to_owned();
                (key, value(of_key))
            });
            Value::Object(entries.collect())
        }
        // No action has another type.
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::super::action::{Add, Format, Metadata, Protocol, Remove, Strings, Txn};
    use super::*;

    #[test]
    fn actions_are_read_back_as_they_were_written() {
        let add = Add {
            path: "dt=2026-11-26/a.parquet".into(),
            partition_values: [("dt".to_owned(), "2026-11-26".to_owned())].into(),
            size: 1 << 40,
            modification_time: 7,
            data_change: false,
            stats: Some(r#"{"numRecords":3}"#.into()),
            others: Map::new(),
        };
        let metadata = Metadata {
            id: "id".into(),
            name: None,
            format: Format {
                provider: "parquet".into(),
                options: Strings::new(),
            },
            schema_string: "{}".into(),
            partition_columns: vec!["dt".into(), "é".into()],
            configuration: [("a", "1"), ("b", "")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            created_time: Some(0),
        };
        let txn = Txn {
            app_id: "app".into(),
            version: 9,
            last_updated: None,
        };
        let actions: Vec<Action> = vec![
            Protocol::ours().into(),
            metadata.into(),
            txn.into(),
            Remove::of(&add, 5, 6, true).into(),
            add.into(),
        ];
        let bytes = encode(&actions).expect("encoded");
        assert_eq!(decode(bytes.clone()), Ok(actions));
        let cut = bytes.get(..bytes.len() / 2).unwrap_or_default();
        assert!(decode(cut.to_vec()).is_err());
        assert!(decode(Vec::new()).is_err());
        assert_eq!(decode(encode(&[]).expect("encoded")), Ok(Vec::new()));
    }
}
