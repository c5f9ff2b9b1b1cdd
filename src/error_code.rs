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
    /// A query, or the query string of a request.
    BadQuery,
    /// A read key is weak or one too many, or is also a dashboard key.
    BadReadKey,
    /// The day that an import is shifted to.
    BadRebaseTo,
    /// The request is not HTTP/1.
    BadRequest,
    /// `sent_at` of a batch.
    BadSentAt,
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
    /// Pages of this origin may not send events.
    OriginNotAllowed,
    /// A read key may only query.
    ReadKey,
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
    /// No cohort has this name.
    UnknownCohort,
    /// No job has this id.
    UnknownJob,
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
