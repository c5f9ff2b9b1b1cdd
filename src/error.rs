//! The one error of the library: a variant for each *reaction* of the caller, not for each source.

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
    /// The disk has no room; nothing of the request is stored, and it heals when space returns.
    #[error("no space left on the device that holds the data folder")]
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
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The query engine failed on a well-formed question.
    #[error("the query failed: {0}")]
    Query(#[source] Box<dyn std::error::Error + Send + Sync>),
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

    /// A failed file operation, ready for `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
