//! The messages of Spark Connect that one query needs, from `spark/connect/base.proto`,
//! `relations.proto` and `expressions.proto` of Spark 4. Field numbers are the contract; fields
//! that are not listed are ignored by both sides.

use std::collections::HashMap;

use prost::{Message, Oneof};

/// The user of a session.
#[derive(Clone, PartialEq, Message)]
pub struct UserContext {
    #[prost(string, tag = "1")]
    pub user_id: String,
    #[prost(string, tag = "2")]
    pub user_name: String,
}

/// The relation that is executed.
#[derive(Clone, PartialEq, Message)]
pub struct Plan {
    #[prost(message, optional, tag = "1")]
    pub root: Option<Relation>,
}

/// Something that has rows.
#[derive(Clone, PartialEq, Message)]
pub struct Relation {
    #[prost(oneof = "RelationKind", tags = "2, 3, 10, 16, 41")]
    pub kind: Option<RelationKind>,
}

/// The kinds of relations.
#[derive(Clone, PartialEq, Oneof)]
pub enum RelationKind {
    #[prost(message, tag = "2")]
    Read(Read),
    #[prost(message, tag = "3")]
    Project(Box<Project>),
    #[prost(message, tag = "10")]
    Sql(Sql),
    #[prost(message, tag = "16")]
    Alias(Box<SubqueryAlias>),
    #[prost(message, tag = "41")]
    With(Box<WithRelations>),
}

/// Files.
#[derive(Clone, PartialEq, Message)]
pub struct Read {
    #[prost(message, optional, tag = "2")]
    pub source: Option<DataSource>,
}

/// Files of one format and schema.
#[derive(Clone, PartialEq, Message)]
pub struct DataSource {
    #[prost(string, optional, tag = "1")]
    pub format: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub schema: Option<String>,
    #[prost(map = "string, string", tag = "3")]
    pub options: HashMap<String, String>,
    #[prost(string, repeated, tag = "4")]
    pub paths: Vec<String>,
}

/// A SQL with parameters.
#[derive(Clone, PartialEq, Message)]
pub struct Sql {
    #[prost(string, tag = "1")]
    pub query: String,
    #[prost(map = "string, message", tag = "4")]
    pub named: HashMap<String, Expression>,
}

/// A relation under a name.
#[derive(Clone, PartialEq, Message)]
pub struct SubqueryAlias {
    #[prost(message, optional, boxed, tag = "1")]
    pub input: Option<Box<Relation>>,
    #[prost(string, tag = "2")]
    pub alias: String,
}

/// A relation that refers to others by their aliases.
#[derive(Clone, PartialEq, Message)]
pub struct WithRelations {
    #[prost(message, optional, boxed, tag = "1")]
    pub root: Option<Box<Relation>>,
    #[prost(message, repeated, tag = "2")]
    pub references: Vec<Relation>,
}

/// Columns of a relation.
#[derive(Clone, PartialEq, Message)]
pub struct Project {
    #[prost(message, optional, boxed, tag = "1")]
    pub input: Option<Box<Relation>>,
    #[prost(message, repeated, tag = "3")]
    pub expressions: Vec<Expression>,
}

/// A value or a SQL.
#[derive(Clone, PartialEq, Message)]
pub struct Expression {
    #[prost(message, optional, tag = "1")]
    pub literal: Option<Literal>,
    #[prost(message, optional, tag = "4")]
    pub text: Option<ExpressionString>,
}

/// An expression of SQL.
#[derive(Clone, PartialEq, Message)]
pub struct ExpressionString {
    #[prost(string, tag = "1")]
    pub expression: String,
}

/// A value with its type.
#[derive(Clone, PartialEq, Message)]
pub struct Literal {
    #[prost(oneof = "LiteralKind", tags = "7, 13, 16")]
    pub kind: Option<LiteralKind>,
}

/// The types of values.
#[derive(Clone, PartialEq, Oneof)]
pub enum LiteralKind {
    #[prost(int64, tag = "7")]
    Long(i64),
    #[prost(string, tag = "13")]
    Text(String),
    /// Days since 1970.
    #[prost(int32, tag = "16")]
    Date(i32),
}

/// Executes a plan.
#[derive(Clone, PartialEq, Message)]
pub struct ExecutePlanRequest {
    #[prost(string, tag = "1")]
    pub session_id: String,
    #[prost(message, optional, tag = "2")]
    pub user_context: Option<UserContext>,
    #[prost(message, optional, tag = "3")]
    pub plan: Option<Plan>,
    #[prost(string, optional, tag = "4")]
    pub client_type: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub operation_id: Option<String>,
}

/// A part of the result.
#[derive(Clone, PartialEq, Message)]
pub struct ExecutePlanResponse {
    #[prost(message, optional, tag = "2")]
    pub arrow_batch: Option<ArrowBatch>,
}

/// Rows, as an Arrow stream of their own.
#[derive(Clone, PartialEq, Message)]
pub struct ArrowBatch {
    #[prost(int64, tag = "1")]
    pub row_count: i64,
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// Asks for the version of the server.
#[derive(Clone, PartialEq, Message)]
pub struct AnalyzePlanRequest {
    #[prost(string, tag = "1")]
    pub session_id: String,
    #[prost(message, optional, tag = "2")]
    pub user_context: Option<UserContext>,
    #[prost(message, optional, tag = "10")]
    pub spark_version: Option<Empty>,
}

/// The version of the server.
#[derive(Clone, PartialEq, Message)]
pub struct AnalyzePlanResponse {
    #[prost(message, optional, tag = "8")]
    pub spark_version: Option<SparkVersion>,
}

/// A version.
#[derive(Clone, PartialEq, Message)]
pub struct SparkVersion {
    #[prost(string, tag = "1")]
    pub version: String,
}

/// A message without fields.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// Ends an operation.
#[derive(Clone, PartialEq, Message)]
pub struct InterruptRequest {
    #[prost(string, tag = "1")]
    pub session_id: String,
    #[prost(message, optional, tag = "2")]
    pub user_context: Option<UserContext>,
    /// 3 for one operation.
    #[prost(int32, tag = "4")]
    pub kind: i32,
    #[prost(string, optional, tag = "6")]
    pub operation_id: Option<String>,
}

/// The operations that were ended.
#[derive(Clone, PartialEq, Message)]
pub struct InterruptResponse {
    #[prost(string, repeated, tag = "2")]
    pub interrupted: Vec<String>,
}
