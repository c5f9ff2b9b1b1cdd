//! The codes of errors: a closed list, which clients may match on and the `OpenAPI` document has.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

/// The code of an error, for programs. A code keeps its name and meaning.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ErrorCode {
    /// An alert or digest is wrong, or there are too many.
    BadAlert,
    /// An annotation is wrong, or there are too many.
    BadAnnotation,
    /// The body ended before its announced length.
    BadBody,
    /// The body is not UTF-8.
    BadCharset,
    /// A cohort is wrong, or there are too many.
    BadCohort,
    /// A confirmation is not a number of events.
    BadConfirm,
    /// The body is not JSON by its type and its first byte.
    BadContentType,
    /// A dashboard key is missing, weak or one too many.
    BadDashKey,
    /// A date is not today's, or not a date.
    BadDate,
    /// A day is not a day, or cannot be rolled up.
    BadDay,
    /// The length of a window.
    BadDays,
    /// A parameter of the synthetic history.
    BadDemo,
    /// `Content-Encoding` is unknown, or the body does not match it.
    BadEncoding,
    /// The last day of a window.
    BadEnd,
    /// A request for an export.
    BadExport,
    /// The format of exported events.
    BadFormat,
    /// HTTP/1.1 requires one `Host`.
    BadHost,
    /// A request for an import.
    BadImport,
    /// The body is not JSON or not a batch.
    BadJson,
    /// A limit of rows.
    BadLimit,
    /// The address to listen on.
    BadListen,
    /// The path does not decode to UTF-8.
    BadPath,
    /// A tracking plan is wrong.
    BadPlan,
    /// A query, or the query string of a request.
    BadQuery,
    /// A read key is weak or one too many, or is also a dashboard key.
    BadReadKey,
    /// The day that an import is shifted to.
    BadRebaseTo,
    /// An option of the cluster for queries.
    BadRemote,
    /// A report or board is wrong, or there are too many.
    BadReport,
    /// The request is not HTTP/1.
    BadRequest,
    /// `sent_at` of a batch.
    BadSentAt,
    /// A share link is wrong, or there are too many.
    BadShareLink,
    /// The mail server, or the sender of e-mails.
    BadSmtp,
    /// The target of an export.
    BadTarget,
    /// `Transfer-Encoding` is not one `chunked`.
    BadTransferEncoding,
    /// An unknown time zone.
    BadTz,
    /// The key of pseudonyms.
    BadUserKey,
    /// A list of users.
    BadUsers,
    /// A window whose fields contradict each other, or whose days are too many or none.
    BadWindow,
    /// Too much work at once; try again.
    Busy,
    /// The clock is implausible.
    Clock,
    /// The clock jumped, so that nothing expires.
    ClockJump,
    /// Only the command line on the machine of the server may do it.
    CommandLineOnly,
    /// An erasure of many events has to be confirmed.
    ConfirmErasure,
    /// A stored file is damaged.
    Damaged,
    /// No space left.
    DiskFull,
    /// The folder has files of something else.
    ForeignFolder,
    /// The head of the request is too large.
    HeadTooLarge,
    /// The server failed.
    Internal,
    /// The job is committing its work and cannot be cancelled.
    JobCommitted,
    /// The job has ended.
    JobEnded,
    /// The event log stopped after a failed write.
    LogStopped,
    /// The path has no such method.
    MethodNotAllowed,
    /// There is no backup, or none of this time.
    NoBackup,
    /// The folder is not a data folder.
    NoData,
    /// No format that the client accepts.
    NotAcceptable,
    /// The folder has events already.
    NotEmpty,
    /// No resource has this path.
    NotFound,
    /// A part of a query that portable SQL does not have.
    NotPortable,
    /// Pages of this origin may not send events.
    OriginNotAllowed,
    /// The server reads a table of others: it takes no events and changes none.
    QueryNode,
    /// A read key may only query.
    ReadKey,
    /// The cluster that computes queries failed.
    RemoteEngine,
    /// The report has another version than the one that was changed.
    ReportChanged,
    /// A share link allows only the queries of its report.
    ShareLink,
    /// The events are also in a table of several servers, which this process does not reach.
    SharedTable,
    /// The body did not arrive in time.
    SlowBody,
    /// The disk did not store the events in time.
    SlowDisk,
    /// The head of the request did not arrive in time.
    SlowHead,
    /// The server is stopping.
    Stopping,
    /// Another program writes to the target.
    TargetInUse,
    /// The body is too large.
    TooLarge,
    /// The client sends too many bytes at once.
    TooManyBytes,
    /// The client has too many connections.
    TooManyConnections,
    /// More events than a batch may have.
    TooManyEvents,
    /// The client sends too many events a second.
    TooManyEventsASecond,
    /// A query has too many groups for its memory.
    TooManyGroups,
    /// Too many jobs have not ended.
    TooManyJobs,
    /// The client sent too many wrong keys.
    TooManyWrongKeys,
    /// The key is missing or wrong.
    Unauthorized,
    /// The folder is that of a restore that did not end.
    UnfinishedRestore,
    /// No alert has this id.
    UnknownAlert,
    /// No annotation has this id.
    UnknownAnnotation,
    /// No cohort has this name.
    UnknownCohort,
    /// No job has this id.
    UnknownJob,
    /// No statement says that this id is an alias.
    UnknownLink,
    /// No report has this id.
    UnknownReport,
    /// The report has no share link with this id, or the key is not that of one.
    UnknownShareLink,
    /// Path and query string are too long.
    UriTooLong,
    /// The folder needs the key of pseudonyms.
    UserKeyNeeded,
}

/// The code as responses have it.
impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}
