//! The one error of the library: a variant for each *reaction* of the caller, not for each source.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What went wrong, sorted by what the caller should do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong and will stay wrong: answer 400 or exit with 2, and say which value.
    #[error("{message}")]
    BadInput {
        /// Stable code for programs, such as `bad_window`.
        code: &'static str,
        /// Names the field, the value and what is allowed.
        message: String,
    },
    /// The request is larger than a limit: answer 413; the client may split it.
    #[error("{message}")]
    TooLarge {
        /// Stable code for programs, such as `too_many_events`.
        code: &'static str,
        /// Names the size found and the limit.
        message: String,
    },
    /// The server has more work queued than it will hold: the client should come back soon.
    #[error("the server is busy: {0}; try again in a second")]
    Busy(&'static str),
    /// The clock cannot be believed: nothing is accepted until it is right or a person confirms it. The message names
    /// both times and the next step.
    #[error("{0}")]
    Clock(String),
    /// The request would remove so much that it must say that it means it; nothing was changed.
    #[error("{0}")]
    Unconfirmed(String),
    /// The disk has no room: answer 507. What was asked for is not done in part, it may be asked for again when
    /// space returns, and nothing needs a restart.
    #[error("no space left on the device; free some and try again")]
    DiskFull,
    /// A write could not be made durable. Nothing more is accepted until a restart re-reads the log.
    #[error("the event log stopped ({0}); restart the server to recover it")]
    Poisoned(String),
    /// Another process holds the data folder.
    #[error("the data folder {} is in use by {holder}", folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// Who holds it, as that process described itself.
        holder: String,
    },
    /// Stored bytes are not what was written. Nothing is computed from them.
    #[error("{} is damaged: {message}", file.display())]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// The operating system refused an operation on a file. The message has the causes, so there is no `source`.
    #[error("cannot {action} {}: {}", path.display(), causes(cause))]
    Io {
        /// What was attempted, a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's response.
        cause: std::io::Error,
    },
    /// The query engine failed on a well-formed query. The message has the causes, so there is no `source`.
    #[error("the query failed: {}", causes(.0.as_ref()))]
    Query(Box<dyn StdError + Send + Sync>),
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A refusal of the caller's own input.
    pub fn bad_input(code: &'static str, message: impl Into<String>) -> Self {
        Self::BadInput {
            code,
            message: message.into(),
        }
    }

    /// A failed file operation, ready for `map_err`. One that found no room is [`Error::DiskFull`].
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| match is_no_room(&cause) {
            true => Self::DiskFull,
            false => Self::Io {
                action,
                path,
                cause,
            },
        }
    }

    /// A failure of the query engine. One that found no room is [`Error::DiskFull`].
    pub fn query(error: impl StdError + Send + Sync + 'static) -> Self {
        let has_room = chain(&error)
            .filter_map(|error| error.downcast_ref::<std::io::Error>())
            .all(|error| !is_no_room(error));
        match has_room {
            true => Self::Query(Box::new(error)),
            false => Self::DiskFull,
        }
    }
}

/// Whether a file operation failed because there is no room: on the disk, in the user's quota, or in a file, whose
/// length may be limited.
pub fn is_no_room(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// An error with its causes, each printed once: many errors print their cause and also name it as their source.
fn causes(error: &(dyn StdError + 'static)) -> String {
    const BETWEEN: &str = ": ";
    let mut printed: Vec<String> = Vec::new();
    for text in chain(error).map(ToString::to_string) {
        for part in text.split(BETWEEN) {
            if !printed.iter().any(|before| before == part) {
                printed.push(part.to_owned());
            }
        }
    }
    printed.join(BETWEEN)
}

/// An error and its causes.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
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

    fn refused() -> io::Error {
        io::Error::from_raw_os_error(111)
    }

    #[test]
    fn each_cause_is_printed_once() {
        const REFUSED: &str = "Connection refused (os error 111)";
        let path = Path::new("a/file");
        let io = |cause: io::Error| Error::io("read", path)(cause);
        let bucket = Plain(Doubled(refused()));
        let polars = PolarsError::IO {
            error: std::sync::Arc::new(refused()),
            msg: None,
        };
        for (error, expected) in [
            (io(refused()), format!("cannot read a/file: {REFUSED}")),
            (
                io(io::Error::other(Doubled(refused()))),
                format!("cannot read a/file: the request failed: {REFUSED}"),
            ),
            (
                io(io::Error::other(bucket)),
                format!(
                    "cannot read a/file: error sending request for url (http://127.0.0.1:1/): the request failed: \
                     {REFUSED}"
                ),
            ),
            (polars.into(), format!("the query failed: {REFUSED}")),
            (
                PolarsError::ComputeError("a part is missing".into()).into(),
                "the query failed: a part is missing".into(),
            ),
        ] {
            assert_eq!(error.to_string(), expected);
            // As the command line prints it.
            assert_eq!(format!("{:#}", anyhow::Error::from(error)), expected);
        }
    }

    #[test]
    fn no_space_is_one_error_wherever_it_comes_from() {
        // ENOSPC, EDQUOT and EFBIG.
        for number in [28, 122, 27] {
            let error = || io::Error::from_raw_os_error(number);
            let io = Error::io("write", Path::new("a/file"))(error());
            assert!(matches!(io, Error::DiskFull), "{number}: {io}");
            let polars = PolarsError::Context {
                error: Box::new(PolarsError::IO {
                    error: std::sync::Arc::new(error()),
                    msg: Some("while it wrote".into()),
                }),
                msg: "a context".into(),
            };
            assert!(matches!(Error::from(polars), Error::DiskFull), "{number}");
        }
        let other = Error::io("write", Path::new("a/file"))(io::Error::from_raw_os_error(5));
        assert!(matches!(other, Error::Io { .. }));
    }
}
