//! The error type of the library. A variant stands for what the caller should do, not for where the
//! error comes from.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use crate::error_code::ErrorCode;

/// An error, by what the caller should do about it.
///
/// No variant has a `source`: its message has all causes, each once, so that the command line, the
/// traces and responses can print it as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong and will stay wrong: respond with 400 or exit with 2, and name the
    /// value.
    #[error("{message}")]
    BadInput {
        /// For programs.
        code: ErrorCode,
        /// Names the field, the value and what is allowed.
        message: String,
    },
    /// The request is larger than a limit: respond with 413; the client may split it.
    #[error("{message}")]
    TooLarge {
        /// For programs.
        code: ErrorCode,
        /// Names the size found and the limit.
        message: String,
    },
    /// The request names a thing that does not exist: respond with 404.
    #[error("{message}")]
    NotFound {
        /// For programs.
        code: ErrorCode,
        /// Names what was not found.
        message: String,
    },
    /// The request was made from an older version of what it changes: respond with 409; nothing was
    /// changed.
    #[error("{message}")]
    Conflict {
        /// For programs.
        code: ErrorCode,
        /// Names both versions.
        message: String,
    },
    /// The server has more work queued than it accepts: the client should come back soon.
    #[error("the server is busy: {0}; try again in a second")]
    Busy(&'static str),
    /// The work was stopped before its end, because its client disconnected or the server is
    /// stopping. The message says which.
    #[error("the request was cancelled: {0}")]
    Cancelled(&'static str),
    /// The clock is implausible: no event is accepted until it is right or confirmed. The message
    /// has both times and the next step.
    #[error("{0}")]
    Clock(String),
    /// The request would remove so much that it has to be confirmed; nothing was changed.
    #[error("{0}")]
    Unconfirmed(String),
    /// The disk is full: respond with 507. Nothing was done in part, the request can be repeated
    /// once space is free, and no restart is needed.
    #[error("no space left on the device; free some and try again")]
    DiskFull,
    /// A write could not be made durable. Nothing more is accepted until a restart reads the log
    /// again.
    #[error("the event log stopped ({0}); restart the server to recover it")]
    Poisoned(String),
    /// The server reads a table of others, and takes no events: respond with 503, so that a client
    /// that was sent to the wrong server keeps its events.
    #[error(
        "this server reads its events from a table and changes none; send the request to a server that publishes there"
    )]
    QueryNode,
    /// The cluster that computes queries failed: respond with 503. The reason has the next step.
    #[error("the engine at {address} failed: {reason}")]
    Remote {
        /// The address of the cluster.
        address: String,
        /// The reason, in one line.
        reason: String,
    },
    /// Another process has the data folder locked.
    #[error("the data folder {} is in use by {holder}", folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// The lock owner, as that process described itself.
        holder: String,
    },
    /// Stored bytes are not what was written. Nothing is computed from them.
    #[error("{} is damaged: {message}", file.display())]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// The difference between the expected and the found bytes.
        message: String,
    },
    /// An operation on a file failed in the operating system.
    #[error("cannot {action} {}: {}", path.display(), causes(cause))]
    Io {
        /// The operation, a verb such as `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// An operation that is not on a file failed in the operating system.
    #[error("cannot {action}: {}", causes(cause))]
    System {
        /// The operation and its object, such as `listen on 127.0.0.1:8080`.
        action: String,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// The query engine failed on a valid query.
    #[error("the query failed: {}", causes(.0.as_ref()))]
    Query(Box<dyn StdError + Send + Sync>),
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error in the caller's own input.
    pub fn bad_input(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::BadInput {
            code,
            message: message.into(),
        }
    }

    /// A failed operation on a file, for `map_err`. A lack of space gives [`Error::DiskFull`].
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| {
            if is_out_of_space(&cause) {
                Self::DiskFull
            } else {
                Self::Io {
                    action,
                    path,
                    cause,
                }
            }
        }
    }

    /// A failed operation that is not on a file, for `map_err`: `action` names it with its object,
    /// such as `listen on 127.0.0.1:8080`.
    pub fn system(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |cause| {
            if is_out_of_space(&cause) {
                Self::DiskFull
            } else {
                Self::System { action, cause }
            }
        }
    }

    /// A failure of the query engine. A lack of space gives [`Error::DiskFull`].
    pub fn query(error: impl StdError + Send + Sync + 'static) -> Self {
        let is_disk_full = chain(&error)
            .filter_map(|error| error.downcast_ref::<std::io::Error>())
            .any(is_out_of_space);
        if is_disk_full {
            Self::DiskFull
        } else {
            Self::Query(Box::new(error))
        }
    }
}

/// True if a file operation failed for lack of space: on the disk, in the user's quota, or in the
/// file, whose length may be limited.
pub fn is_out_of_space(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Characters of a value that a message shows; the values of requests may be megabytes long.
const SHOWN_CHARS: usize = 64;

/// The beginning of a value, short enough for a message.
pub fn shown(value: &str) -> &str {
    first_chars(value, SHOWN_CHARS)
}

/// The first `count` characters of a string.
pub fn first_chars(string: &str, count: usize) -> &str {
    let end = string.char_indices().nth(count).map(|(end, _)| end);
    end.and_then(|end| string.get(..end)).unwrap_or(string)
}

/// An error with its causes, each printed once: many errors print their cause and also name it as
/// their source.
fn causes(error: &(dyn StdError + 'static)) -> String {
    const SEPARATOR: &str = ": ";
    let mut printed: Vec<String> = Vec::new();
    for message in chain(error).map(ToString::to_string) {
        for part in message.split(SEPARATOR) {
            if !printed.iter().any(|before| before == part) {
                printed.push(part.to_owned());
            }
        }
    }
    printed.join(SEPARATOR)
}

/// An error and its causes.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use polars::error::PolarsError;

    use super::*;

    /// An error that prints its cause and names it as its source.
    #[derive(Debug, thiserror::Error)]
    #[error("the request failed: {0}")]
    struct Doubled(#[source] io::Error);

    /// One that only names its source.
    #[derive(Debug, thiserror::Error)]
    #[error("error sending request for url (http://127.0.0.1:1/)")]
    struct Plain(#[source] Doubled);

    /// Message of [`os_error`].
    const OS_MESSAGE: &str = "Input/output error (os error 5)";

    fn os_error() -> io::Error {
        io::Error::from_raw_os_error(5)
    }

    /// A Polars error around an error of the operating system.
    fn polars_error(error: io::Error) -> PolarsError {
        PolarsError::IO {
            error: std::sync::Arc::new(error),
            msg: None,
        }
    }

    #[test]
    fn causes_are_printed_once_and_in_order() {
        let path = Path::new("a/file");
        let io = |cause: io::Error| Error::io("read", path)(cause);
        let bucket = Plain(Doubled(os_error()));
        let nested = io(io::Error::other(Error::io("sync", path)(os_error())));
        for (error, expected) in [
            (io(os_error()), format!("cannot read a/file: {OS_MESSAGE}")),
            (
                io(io::Error::other(Doubled(os_error()))),
                format!("cannot read a/file: the request failed: {OS_MESSAGE}"),
            ),
            (
                io(io::Error::other(bucket)),
                format!(
                    "cannot read a/file: error sending request for url (http://127.0.0.1:1/): the request failed: \
                     {OS_MESSAGE}"
                ),
            ),
            (
                nested,
                format!("cannot read a/file: cannot sync a/file: {OS_MESSAGE}"),
            ),
            (
                polars_error(os_error()).into(),
                format!("the query failed: {OS_MESSAGE}"),
            ),
            (
                PolarsError::ComputeError("a part is missing".into()).into(),
                "the query failed: a part is missing".into(),
            ),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }

    /// An error of each variant. `match` makes the compiler ask for new ones.
    fn one_of_each_variant() -> Vec<Error> {
        let path = PathBuf::from("a/file");
        let os_message = || os_error().to_string();
        let errors = vec![
            Error::bad_input(ErrorCode::BadTz, "tz is \"x\""),
            Error::TooLarge {
                code: ErrorCode::TooLarge,
                message: "9 bytes".into(),
            },
            Error::NotFound {
                code: ErrorCode::UnknownReport,
                message: "there is no report".into(),
            },
            Error::Conflict {
                code: ErrorCode::ReportChanged,
                message: "version is 1".into(),
            },
            Error::Busy("too many queries"),
            Error::Cancelled("the client disconnected"),
            Error::Clock("the clock is wrong".into()),
            Error::Unconfirmed("confirm it".into()),
            Error::DiskFull,
            Error::Poisoned(os_message()),
            Error::QueryNode,
            Error::Remote {
                address: "sc://spark:15002".into(),
                reason: os_message(),
            },
            Error::Held {
                folder: path.clone(),
                holder: "another process".into(),
            },
            Error::Damaged {
                file: path.clone(),
                message: os_message(),
            },
            Error::io("read", &path)(io::Error::other(Doubled(os_error()))),
            Error::system("listen for signals")(io::Error::other(Doubled(os_error()))),
            Error::query(Plain(Doubled(os_error()))),
        ];
        for error in &errors {
            match error {
                Error::BadInput { .. }
                | Error::TooLarge { .. }
                | Error::NotFound { .. }
                | Error::Conflict { .. }
                | Error::Busy(_)
                | Error::Cancelled(_)
                | Error::Clock(_)
                | Error::Unconfirmed(_)
                | Error::DiskFull
                | Error::Poisoned(_)
                | Error::QueryNode
                | Error::Remote { .. }
                | Error::Held { .. }
                | Error::Damaged { .. }
                | Error::Io { .. }
                | Error::System { .. }
                | Error::Query(_) => {}
            }
        }
        errors
    }

    /// However it is printed: by the command line with its causes, in a trace or in a response.
    #[test]
    fn no_variant_prints_an_error_of_the_operating_system_twice() {
        for error in one_of_each_variant() {
            let message = error.to_string();
            let variant = format!("{error:?}");
            assert!(error.source().is_none(), "{variant}");
            assert!(message.matches(OS_MESSAGE).count() <= 1, "{message}");
            let has_cause = variant.contains("Input/output error");
            assert_eq!(message.contains(OS_MESSAGE), has_cause, "{variant}");
            assert_eq!(format!("{:#}", anyhow::Error::from(error)), message);
        }
    }

    #[test]
    fn a_lack_of_space_is_one_error_wherever_it_comes_from() {
        // ENOSPC, EDQUOT and EFBIG.
        for number in [28, 122, 27] {
            let error = || io::Error::from_raw_os_error(number);
            let io = Error::io("write", Path::new("a/file"))(error());
            assert!(matches!(io, Error::DiskFull), "{number}: {io}");
            let polars = PolarsError::Context {
                error: Box::new(polars_error(error())),
                msg: "a context".into(),
            };
            assert!(matches!(Error::from(polars), Error::DiskFull), "{number}");
        }
        let other = Error::io("write", Path::new("a/file"))(io::Error::from_raw_os_error(5));
        assert!(matches!(other, Error::Io { .. }));
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        for (string, count, expected) in [
            ("", 3, ""),
            ("abc", 3, "abc"),
            ("abcd", 3, "abc"),
            ("äöüß", 2, "äö"),
            ("a", 0, ""),
        ] {
            assert_eq!(first_chars(string, count), expected);
        }
        assert_eq!(shown(&"é".repeat(1_000)).chars().count(), SHOWN_CHARS);
    }
}
