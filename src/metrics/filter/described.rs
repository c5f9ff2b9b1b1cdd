//! The JSON Schema of filters, for the `OpenAPI` document.

use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, OneOfBuilder, SchemaType};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{Filter, MAX_CONDITIONS, MAX_VALUES, Predicate, Property};

/// The names of properties.
const PROPERTY: &str = r"^(event_type|feature|url)$|^metadata\.";
/// Those and the name that limits a query to a cohort.
const PROPERTY_OR_COHORT: &str = r"^(cohort|event_type|feature|url)$|^metadata\.";

fn object(names: &str) -> ObjectBuilder {
    let names = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(names));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(names))
        .additional_properties(Some(Ref::from_schema_name(Predicate::name())))
}

impl PartialSchema for Filter {
    fn schema() -> RefOr<Schema> {
        object(PROPERTY)
            .description(Some("Conditions that must all hold, by property."))
            .max_properties(Some(MAX_CONDITIONS))
            .into()
    }
}

impl ToSchema for Filter {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Predicate::name().into_owned(), Predicate::schema()));
    }
}

/// The filter of a query, which may also name a cohort.
pub struct QueryFilter;

impl PartialSchema for QueryFilter {
    fn schema() -> RefOr<Schema> {
        let cohort = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The name of a cohort."));
        object(PROPERTY_OR_COHORT)
            .description(Some(
                "Conditions that must all hold, by property, and a cohort.",
            ))
            .property("cohort", cohort)
            .into()
    }
}

impl ToSchema for QueryFilter {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Filter::schemas(schemas);
    }
}

impl PartialSchema for Predicate {
    fn schema() -> RefOr<Schema> {
        let typed = |type_: Type| ObjectBuilder::new().schema_type(type_);
        let scalar = || {
            let types = vec![Type::String, Type::Number, Type::Boolean];
            ObjectBuilder::new().schema_type(SchemaType::Array(types))
        };
        let values = ArrayBuilder::new()
            .items(scalar().build())
            .min_items(Some(1))
            .max_items(Some(MAX_VALUES));
        let object = || {
            typed(Type::Object).additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        OneOfBuilder::new()
            .description(Some(
                "A value, a list of values, the start of a string, a range of numbers with both \
                 ends included, or whether the property is there.",
            ))
            .item(scalar())
            .item(values)
            .item(
                object()
                    .property("prefix", typed(Type::String))
                    .required("prefix"),
            )
            .item(
                object()
                    .property("min", typed(Type::Number))
                    .property("max", typed(Type::Number))
                    .min_properties(Some(1)),
            )
            .item(
                object()
                    .property("exists", typed(Type::Boolean))
                    .required("exists"),
            )
            .into()
    }
}

impl ToSchema for Predicate {
    fn name() -> std::borrow::Cow<'static, str> {
        "Condition".into()
    }
}

impl PartialSchema for Property {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A property of events."))
            .pattern(Some(PROPERTY))
            .into()
    }
}

impl ToSchema for Property {}
