//! The JSON Schema of queries, for the `OpenAPI` document: one of the metrics, each with its own
//! parameters and those that all have.

use utoipa::openapi::schema::{AdditionalProperties, Discriminator, OneOfBuilder};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{Common, Query};
use crate::metrics::{LIST, Metric, NAMES};

impl PartialSchema for Query {
    fn schema() -> RefOr<Schema> {
        let refs = NAMES.map(|name| (name, Ref::from_schema_name(component(name))));
        let mapping = refs.clone().map(|(name, of)| (name, of.ref_location));
        let one_of = OneOfBuilder::new()
            .description(Some("A query of one metric."))
            .discriminator(Some(Discriminator::with_mapping("metric", mapping)));
        refs.into_iter()
            .fold(one_of, |one_of, (_, metric)| one_of.item(metric))
            .into()
    }
}

impl ToSchema for Query {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Common::schemas(schemas);
        Metric::add_schemas(schemas);
        for (metric, (name, parameters)) in LIST.iter().zip(Metric::parameters()) {
            let about = metric.about.trim();
            schemas.push((component(name), with_common(name, about, parameters)));
        }
    }
}

/// The name of the schema of queries of a metric.
fn component(metric: &str) -> String {
    format!("query_{metric}")
}

/// Adds the fields of all queries to the parameters of a metric.
fn with_common(name: &str, about: &str, parameters: RefOr<Schema>) -> RefOr<Schema> {
    let (RefOr::T(Schema::Object(mut own)), RefOr::T(Schema::Object(common))) =
        (parameters, Common::schema())
    else {
        // Structs have schemas of objects.
        return RefOr::default();
    };
    own.description = Some(about.to_owned());
    own.properties.extend(common.properties);
    let metric = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some([name]));
    own.properties.insert("metric".into(), metric.into());
    own.required.push("metric".into());
    own.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    own.into()
}
