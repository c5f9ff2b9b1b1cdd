//! Failures of file operations, for tests: the nth change of a file below a folder fails, or all
//! from the nth on.

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// The folders in which operations are counted.
static ARMED: Mutex<Vec<Arc<Fault>>> = Mutex::new(Vec::new());

/// Operations that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// One operation.
    Once,
    /// That operation and all later ones, as on a disk that is gone.
    FromThenOn,
}

struct Fault {
    dir: PathBuf,
    /// The first operation that fails, counted from 0.
    at: usize,
    failing: Failing,
    seen: Mutex<Vec<String>>,
}

/// Counts operations below a folder until it is dropped.
pub struct Armed(Arc<Fault>);

impl Armed {
    /// The operations so far, each with its path below the folder.
    pub fn seen(&self) -> Vec<String> {
        self.0.seen.lock().clone()
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        ARMED.lock().retain(|fault| !Arc::ptr_eq(fault, &self.0));
    }
}

/// Makes the operation number `at` below a folder fail.
pub fn fail_at(dir: &Path, at: usize, failing: Failing) -> Armed {
    let fault = Arc::new(Fault {
        dir: dir.to_owned(),
        at,
        failing,
        seen: Mutex::default(),
    });
    ARMED.lock().push(fault.clone());
    Armed(fault)
}

/// Called before an operation.
///
/// # Errors
/// If the operation is to fail.
pub fn check(operation: &str, path: &Path) -> Result<()> {
    for fault in ARMED.lock().iter() {
        let Ok(path) = path.strip_prefix(&fault.dir) else {
            continue;
        };
        let mut seen = fault.seen.lock();
        let path = match path.to_str() {
            Some("") => "(root)".into(),
            _ => path.to_string_lossy(),
        };
        seen.push(format!("{operation} {path}"));
        let place = seen.len() - 1;
        if place == fault.at || place > fault.at && fault.failing == Failing::FromThenOn {
            return Err(Error::other("injected by a test"));
        }
    }
    Ok(())
}
