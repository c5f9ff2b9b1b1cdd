//! Calls of Spark Connect.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use uuid::Builder;

use super::messages::{
    AnalyzePlanRequest, AnalyzePlanResponse, DataSource, Empty, ExecutePlanRequest,
    ExecutePlanResponse, Expression, ExpressionString, InterruptRequest, InterruptResponse,
    Literal, LiteralKind, Plan, Project, Read, Relation, RelationKind, Sql, SubqueryAlias,
    UserContext, WithRelations,
};
use super::{Address, Files, RemoteConfig, rows};
use crate::error::{Error, Result, first_chars};
use crate::sql::answer::{Cell, Rows};
use crate::sql::{Dialect, Statement, Value, renamed};

/// Time to connect to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to interrupt an operation, and to ask for a version.
const SHORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two checks whether the result is still wanted.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Most bytes of a result: more than the largest one, whose rows the metrics limit.
const MAX_RESULT_BYTES: usize = 256 << 20;
/// Most characters of a message of the cluster; some have a stack trace.
const MAX_MESSAGE_CHARS: usize = 400;
/// The kind of [`InterruptRequest`] that ends one operation.
const INTERRUPT_OPERATION: i32 = 3;

const UNREACHABLE: &str = "it is not reachable";
const BROKEN: &str = "the connection broke";
const EXECUTE: &str = "/spark.connect.SparkConnectService/ExecutePlan";
const ANALYZE: &str = "/spark.connect.SparkConnectService/AnalyzePlan";
const INTERRUPT: &str = "/spark.connect.SparkConnectService/Interrupt";

/// The columns of the lake, for a read that lists files.
const LAKE_SCHEMA: &str = "ts timestamp, event_type string, user_id string, feature string, metadata string, url string, \
     event_id string, received_at timestamp, dt date";
/// The columns of the table of links.
const LINKS_SCHEMA: &str = "alias string, user_id string, since timestamp";
/// The table without links.
const NO_LINKS: &str =
    "select cast(null as string) as alias, cast(null as string) as user_id where false";
/// The columns of files in the SQL of the views.
const FILE_COLUMNS: &str = "*, _metadata.file_path as file_path, _metadata.row_index as row_index";
/// The number of processes that run tasks: each of many tasks says its machine and process.
const WORKERS_SQL: &str = "select count(distinct place) as workers from (select \
     concat(java_method('java.net.InetAddress', 'getLocalHost'), ' ', \
     java_method('java.lang.ProcessHandle', 'current')) as place from range(0, 64, 1, 64))";

/// A client of one server. Its session has no state: each request is complete in itself.
pub struct Client {
    address: Address,
    token: Option<String>,
    token_file: Option<PathBuf>,
    timeout: Duration,
    session: String,
}

/// An error of a call: of the cluster, or of the check whether the result is still wanted.
enum Failed {
    Remote(String),
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Remote(reason(&status))
    }
}

impl Client {
    /// A client, which does not connect yet.
    pub fn new(address: Address, config: &RemoteConfig) -> Self {
        Self {
            address,
            token: config.remote_token.clone(),
            token_file: config.remote_token_file.clone(),
            timeout: Duration::from_secs(config.remote_timeout),
            session: new_id(),
        }
    }

    /// The address of the server.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Runs a statement over some files.
    ///
    /// # Errors
    /// [`Error::Remote`], and that of `check`.
    pub fn run(
        &self,
        statement: &Statement,
        files: &Files<'_>,
        check: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<Rows> {
        self.execute(plan(statement, files), check)
    }

    /// The version of Spark.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub fn version(&self) -> Result<String> {
        self.block_on(async {
            let request = AnalyzePlanRequest {
                session_id: self.session.clone(),
                user_context: self.user(),
                spark_version: Some(Empty {}),
            };
            let mut grpc = self.connect().await?;
            let codec = ProstCodec::<AnalyzePlanRequest, AnalyzePlanResponse>::default();
            ready(&mut grpc).await?;
            let call = grpc.unary(
                self.request(request)?,
                PathAndQuery::from_static(ANALYZE),
                codec,
            );
            let answer = tokio::time::timeout(SHORT_TIMEOUT, call).await;
            let answer = answer.map_err(|_| self.too_slow(SHORT_TIMEOUT))??;
            let version = answer.into_inner().spark_version;
            version.map(|found| found.version).ok_or_else(|| {
                Failed::Remote("it does not say the version of Spark: it is another service".into())
            })
        })
    }

    /// The number of executors that ran tasks of a small query.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub fn workers(&self) -> Result<usize> {
        let root = sql(WORKERS_SQL.into(), HashMap::new());
        let rows = self.execute(Plan { root: Some(root) }, &|| Ok(()))?;
        match rows.rows.first().and_then(|row| row.first()) {
            Some(Cell::Integer(workers)) => Ok(usize::try_from(*workers).unwrap_or(0)),
            _ => Err(self.remote("it does not say how many workers it has".into())),
        }
    }

    fn execute(&self, plan: Plan, check: &(dyn Fn() -> Result<()> + Sync)) -> Result<Rows> {
        let operation = new_id();
        let request = ExecutePlanRequest {
            session_id: self.session.clone(),
            user_context: self.user(),
            plan: Some(plan),
            client_type: Some(concat!("echopilot/", env!("CARGO_PKG_VERSION")).into()),
            operation_id: Some(operation.clone()),
        };
        self.block_on(async {
            let mut grpc = self.connect().await?;
            let mut interrupting = grpc.clone();
            let request = self.request(request)?;
            let failed = tokio::select! {
                result = collect(&mut grpc, request) => return result,
                () = tokio::time::sleep(self.timeout) => self.too_slow(self.timeout),
                error = unwanted(check) => error.into(),
            };
            // The cluster ends the operation by itself some time after the connection is gone.
            let interrupt = self.interrupt(&mut interrupting, operation);
            let _ = tokio::time::timeout(SHORT_TIMEOUT, interrupt).await;
            Err(failed)
        })
    }

    async fn interrupt(&self, grpc: &mut Grpc<Channel>, operation: String) -> Result<(), Failed> {
        let request = InterruptRequest {
            session_id: self.session.clone(),
            user_context: self.user(),
            kind: INTERRUPT_OPERATION,
            operation_id: Some(operation),
        };
        let codec = ProstCodec::<InterruptRequest, InterruptResponse>::default();
        ready(grpc).await?;
        let path = PathAndQuery::from_static(INTERRUPT);
        grpc.unary(self.request(request)?, path, codec).await?;
        Ok(())
    }

    async fn connect(&self) -> Result<Grpc<Channel>, Failed> {
        let failed = |error: tonic::transport::Error| Failed::Remote(transport_reason(&error));
        let endpoint = Endpoint::from_shared(self.address.url()).map_err(failed)?;
        let mut endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        if self.address.uses_tls {
            let tls = ClientTlsConfig::new().with_native_roots();
            endpoint = endpoint.tls_config(tls).map_err(failed)?;
        }
        let channel = tokio::time::timeout(2 * CONNECT_TIMEOUT, endpoint.connect()).await;
        let channel = channel
            .map_err(|_| self.too_slow(2 * CONNECT_TIMEOUT))?
            .map_err(failed)?;
        Ok(Grpc::new(channel).max_decoding_message_size(MAX_RESULT_BYTES))
    }

    /// A request with the headers of the address and the token.
    fn request<T>(&self, message: T) -> Result<Request<T>, Failed> {
        let mut request = Request::new(message);
        let invalid = |name: &str| Failed::Remote(format!("the header {name} is not valid"));
        let metadata = request.metadata_mut();
        for (name, value) in &self.address.headers {
            let key = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| invalid(name))?;
            metadata.insert(key, value.parse().map_err(|_| invalid(name))?);
        }
        let token = match &self.token_file {
            Some(file) => Some(std::fs::read_to_string(file).map_err(Error::io("read", file))?),
            None => self.token.clone(),
        };
        if let Some(token) = token {
            let bearer = format!("Bearer {}", token.trim());
            let mut bearer: AsciiMetadataValue =
                bearer.parse().map_err(|_| invalid("of the token"))?;
            bearer.set_sensitive(true);
            metadata.insert("authorization", bearer);
        }
        Ok(request)
    }

    fn user(&self) -> Option<UserContext> {
        Some(UserContext {
            user_id: self.address.user.clone(),
            user_name: self.address.user.clone(),
        })
    }

    fn too_slow(&self, timeout: Duration) -> Failed {
        let seconds = timeout.as_secs();
        Failed::Remote(format!(
            "it did not respond within {seconds} s; ask for fewer days, or set --remote-timeout"
        ))
    }

    fn remote(&self, reason: String) -> Error {
        Error::Remote {
            address: self.address.to_string(),
            reason,
        }
    }

    /// Runs calls on this thread, which is not one of an async runtime.
    fn block_on<T>(&self, calls: impl Future<Output = Result<T, Failed>>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(Error::system("start a runtime"))?;
        runtime.block_on(calls).map_err(|failed| match failed {
            Failed::Remote(reason) => self.remote(reason),
            Failed::Other(error) => error,
        })
    }
}

/// Waits until the channel takes a request.
async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Failed> {
    let ready = grpc.ready().await;
    ready.map_err(|error| Failed::Remote(transport_reason(&error)))
}

/// Executes a request and collects its rows.
async fn collect(
    grpc: &mut Grpc<Channel>,
    request: Request<ExecutePlanRequest>,
) -> Result<Rows, Failed> {
    let codec = ProstCodec::<ExecutePlanRequest, ExecutePlanResponse>::default();
    ready(grpc).await?;
    let path = PathAndQuery::from_static(EXECUTE);
    let mut stream = grpc
        .server_streaming(request, path, codec)
        .await?
        .into_inner();
    let mut found = Rows::default();
    let mut bytes = 0;
    while let Some(message) = stream.message().await? {
        let Some(batch) = message.arrow_batch else {
            continue;
        };
        bytes += batch.data.len();
        if bytes > MAX_RESULT_BYTES {
            return Err(Failed::Remote(format!(
                "its result has more than {} MiB; ask for fewer rows or days",
                MAX_RESULT_BYTES >> 20
            )));
        }
        rows::add(&batch, &mut found).map_err(Failed::Remote)?;
    }
    // A result without rows has a batch with its columns; tonic reports a stream without a status.
    if found.names.is_empty() {
        return Err(Failed::Remote(
            "its result was cut off; run the query again".into(),
        ));
    }
    Ok(found)
}

/// Waits until the result is no longer wanted.
async fn unwanted(check: &(dyn Fn() -> Result<()> + Sync)) -> Error {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        if let Err(error) = check() {
            return error;
        }
    }
}

/// The names of the views and of what they read.
const VIEWS: [&str; 5] = ["lake", "links", "all_events", "events", "numbers"];
/// The sources of the views in their SQL, and their names here.
const SOURCES: [(&str, &str); 2] = [
    ("parquet.`{lake}`", "lake"),
    ("parquet.`{lake}/../links/*.parquet`", "links"),
];

/// The plan of a statement: its SQL over the views, which are over the files. Spark makes the views
/// in the session for the time of the request, and requests run at the same time, so that they have
/// names of their own.
fn plan(statement: &Statement, files: &Files<'_>) -> Plan {
    let suffix = format!("_{}", new_id().replace('-', ""));
    let own = |sql: &str| renamed(sql, &VIEWS, &suffix);
    let lake = read(LAKE_SCHEMA, Some(files.lake), files.segments.clone());
    // The view cannot name hidden columns of a relation that it refers to.
    let columns = [
        "*",
        "_metadata.file_path as file_path",
        "_metadata.row_index as row_index",
    ];
    let lake = project(lake, &columns);
    let links = match &files.links {
        Some(links) => read(LINKS_SCHEMA, None, vec![links.clone()]),
        None => sql(NO_LINKS.into(), HashMap::new()),
    };
    let mut views = Statement::views(Dialect::Spark, None).replace(FILE_COLUMNS, "*");
    for (source, name) in SOURCES {
        views = views.replace(source, name);
    }
    let views = views.split(';').filter_map(|view| {
        let (before, body) = view.split_once(" as\n")?;
        let name = before.split_whitespace().last()?;
        Some(alias(&own(name), sql(own(body), HashMap::new())))
    });
    let parameters = statement.parameters.iter().map(|parameter| {
        let kind = match &parameter.value {
            Value::Date(day) => LiteralKind::Date(day.to_epoch_days()),
            Value::Bigint(number) => LiteralKind::Long(*number),
            Value::Text(text) => LiteralKind::Text(text.clone()),
        };
        let literal = Expression {
            literal: Some(Literal { kind: Some(kind) }),
            text: None,
        };
        (parameter.name.clone(), literal)
    });
    let root = sql(own(&statement.text), parameters.collect());
    Plan {
        root: Some(relation(RelationKind::With(Box::new(WithRelations {
            root: Some(Box::new(root)),
            references: [alias(&own("lake"), lake), alias(&own("links"), links)]
                .into_iter()
                .chain(views)
                .collect(),
        })))),
    }
}

/// The rows of Parquet files. `base` is the folder of their partitions.
fn read(schema: &str, base: Option<&str>, paths: Vec<String>) -> Relation {
    let base = base.map(|base| ("basePath".to_owned(), base.to_owned()));
    relation(RelationKind::Read(Read {
        source: Some(DataSource {
            format: Some("parquet".into()),
            schema: Some(schema.into()),
            options: base.into_iter().collect(),
            paths,
        }),
    }))
}

fn project(input: Relation, columns: &[&str]) -> Relation {
    let expressions = columns.iter().map(|&column| Expression {
        literal: None,
        text: Some(ExpressionString {
            expression: column.into(),
        }),
    });
    relation(RelationKind::Project(Box::new(Project {
        input: Some(Box::new(input)),
        expressions: expressions.collect(),
    })))
}

fn relation(kind: RelationKind) -> Relation {
    Relation { kind: Some(kind) }
}

fn alias(name: &str, input: Relation) -> Relation {
    relation(RelationKind::Alias(Box::new(SubqueryAlias {
        input: Some(Box::new(input)),
        alias: name.into(),
    })))
}

fn sql(query: String, named: HashMap<String, Expression>) -> Relation {
    relation(RelationKind::Sql(Sql { query, named }))
}

/// A random id, as Spark wants it.
fn new_id() -> String {
    Builder::from_random_bytes(rand::random())
        .into_uuid()
        .to_string()
}

/// The reason of a failed call, with the next step where it is known.
fn reason(status: &Status) -> String {
    let message = first_line(status.message());
    let is_unreadable = [
        "PATH_NOT_FOUND",
        "FILE_NOT_EXIST",
        "FAILED_READ_FILE",
        "UNSUPPORTED_FILE_SYSTEM",
    ]
    .iter()
    .any(|code| status.message().contains(code));
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            format!(
                "it rejects the token ({message}); set ECHOPILOT_REMOTE_TOKEN or --remote-token-file to a valid one"
            )
        }
        Code::OutOfRange | Code::ResourceExhausted => {
            format!("its result is too large ({message}); ask for fewer rows or days")
        }
        _ if is_unreadable => format!(
            "it cannot read a file of the lake ({message}); check that the cluster sees the lake at the URL of --remote-lake, \
             and run the query again if events were compacted meanwhile"
        ),
        _ if message.contains("grpc-status header missing") => not_grpc(&message),
        _ if message.contains("grpc-status") || message.contains("Unexpected EOF") => {
            format!("its result was cut off ({message}); run the query again")
        }
        _ => match status.source() {
            Some(source) => transport_reason(source).replace(UNREACHABLE, BROKEN),
            None => message,
        },
    }
}

/// The reason of a missing connection.
fn transport_reason(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let mut of_system = causes
        .clone()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    let is_closed = of_system.any(|cause| cause.kind() == ErrorKind::ConnectionRefused);
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    let last = first_line(causes.last().map_or("", String::as_str));
    let all = causes.join(": ");
    // What another protocol sends is taken for a frame, and its first bytes for a length.
    if all.contains("frame with invalid size") || all.contains("FRAME_SIZE_ERROR") {
        return not_grpc(&last);
    }
    if is_closed {
        return format!("{UNREACHABLE} ({last}); start Spark Connect there, or correct --remote");
    }
    format!("{UNREACHABLE} ({last}); check that --remote names the port of Spark Connect")
}

fn not_grpc(message: &str) -> String {
    format!(
        "its port does not speak gRPC ({message}); the port of Spark Connect is 15002 unless it was changed"
    )
}

fn first_line(message: &str) -> String {
    let line = message.trim().lines().next().unwrap_or_default();
    first_chars(line, MAX_MESSAGE_CHARS).to_owned()
}
