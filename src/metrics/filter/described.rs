//! The JSON Schema of filters, for the `OpenAPI` document.

use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, OneOfBuilder, SchemaType};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::predicate::{MAX_SEARCHED_CHARS, MAX_VALUES};
use super::{Filter, MAX_CONDITIONS, Predicate, Property};

/// Most cohorts of a query: each is computed first.
pub const MAX_COHORTS: usize = 10;
/// The names of properties.
const PROPERTY: &str = r"^(event_type|feature|url|user_id)$|^metadata\.";
/// Those and the keys of parts of a filter.
const KEY: &str = r"^(any|not|event_type|feature|url|user_id)$|^metadata\.";
/// Those and the name that limits a query to a cohort.
const KEY_OR_COHORT: &str = r"^(any|cohort|not|event_type|feature|url|user_id)$|^metadata\.";

fn object(names: &str) -> ObjectBuilder {
    let names = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(names));
    let filter = || Ref::from_schema_name(Filter::name());
    let any = ArrayBuilder::new()
        .items(filter())
        .min_items(Some(1))
        .max_items(Some(MAX_CONDITIONS))
        .description(Some("At least one of these filters must hold."));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property_names(Some(names))
        .property("any", any)
        .property("not", filter())
        .additional_properties(Some(Ref::from_schema_name(Predicate::name())))
}

impl PartialSchema for Filter {
    fn schema() -> RefOr<Schema> {
        object(KEY)
            .description(Some(
                "Conditions that must all hold, by property; `any`, filters of which at least one \
                 must hold; `not`, a filter that must not hold.",
            ))
            .max_properties(Some(MAX_CONDITIONS))
            .into()
    }
}

impl ToSchema for Filter {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Predicate::name().into_owned(), Predicate::schema()));
        schemas.push((Self::name().into_owned(), Self::schema()));
    }
}

/// The filter of a query, which may also name cohorts.
pub struct QueryFilter;

impl PartialSchema for QueryFilter {
    fn schema() -> RefOr<Schema> {
        let name = || ObjectBuilder::new().schema_type(Type::String);
        let not = || {
            ObjectBuilder::new()
                .schema_type(Type::Object)
                .property("not", name())
                .required("not")
                .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        let one = || OneOfBuilder::new().item(name()).item(not());
        let several = ArrayBuilder::new()
            .items(one())
            .min_items(Some(1))
            .max_items(Some(MAX_COHORTS));
        let cohort = one().item(several).description(Some(
            "The name of a cohort, `not` with the name of one, or several of these that all hold.",
        ));
        object(KEY_OR_COHORT)
            .description(Some(
                "Conditions that must all hold, by property, and cohorts.",
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
        let condition = || Ref::from_schema_name(Self::name());
        let scalar = || {
            let types = vec![Type::String, Type::Number, Type::Boolean];
            ObjectBuilder::new().schema_type(SchemaType::Array(types))
        };
        let values = ArrayBuilder::new()
            .items(scalar().build())
            .min_items(Some(1))
            .max_items(Some(MAX_VALUES));
        let all = ArrayBuilder::new()
            .items(condition())
            .min_items(Some(1))
            .max_items(Some(MAX_CONDITIONS));
        let object = || {
            typed(Type::Object).additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        let search = |name: &str| {
            let searched = typed(Type::String).max_length(Some(MAX_SEARCHED_CHARS));
            object()
                .property(name, searched)
                .property("ignore_case", typed(Type::Boolean))
                .required(name)
        };
        OneOfBuilder::new()
            .description(Some(
                "A value; a list of values; a string that the value contains, begins with or ends \
                 with, or a regular expression that a part of it matches; a range of numbers (`min` \
                 and `max` included, `above` and `below` excluded); whether the property is there; \
                 a condition that must not hold; or several that must all hold.",
            ))
            .item(scalar())
            .item(values)
            .item(search("contains"))
            .item(search("prefix"))
            .item(search("suffix"))
            .item(search("matches"))
            .item(
                object()
                    .property("min", typed(Type::Number))
                    .property("max", typed(Type::Number))
                    .property("above", typed(Type::Number))
                    .property("below", typed(Type::Number))
                    .min_properties(Some(1)),
            )
            .item(
                object()
                    .property("exists", typed(Type::Boolean))
                    .required("exists"),
            )
            .item(object().property("not", condition()).required("not"))
            .item(object().property("all", all).required("all"))
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
