//! Events as they are accepted, for whoever watches.
//!
//! Without a watcher a commit costs one look at a number. With one, the newest lines of a commit are copied; a watcher that
//! is too slow misses some and is told how many events there were.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::broadcast::{self, Receiver, Sender};

use super::lock::{Ordered, Rank};
use crate::error::{Error, Result};
use crate::event::{lines, read_line};

/// Watchers at once: each holds a connection open.
const MAX_WATCHERS: usize = 16;
/// Commits that wait for the slowest watcher.
const QUEUE_COMMITS: usize = 64;
/// Events of a commit that are shown: more than a screen has room for.
const MAX_EVENTS: usize = 100;
/// Their bytes: together with the queue what a slow watcher can hold of the memory.
const MAX_BYTES: usize = 64 << 10;

/// The newest events of one commit.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// How many events it had.
    pub accepted: usize,
    /// The newest of them, as whole lines of the event log, oldest first.
    pub lines: Arc<[u8]>,
}

/// The way from the writer to the watchers.
pub(super) struct Live {
    watchers: AtomicUsize,
    /// Absent once the server stops.
    commits: Ordered<Option<Sender<Commit>>>,
}

/// One watcher, until it is dropped.
pub struct Watch {
    live: Arc<Live>,
    commits: Receiver<Commit>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            watchers: AtomicUsize::new(0),
            commits: Ordered::new(Rank::Leaf, Some(broadcast::channel(QUEUE_COMMITS).0)),
        }
    }
}

impl Live {
    /// Shows a commit to those who watch.
    pub fn show(&self, accepted: usize, lines: &[u8]) {
        if self.watchers.load(Ordering::Acquire) == 0 {
            return;
        }
        let commits = self.commits.lock();
        if let Some(commits) = commits.as_ref() {
            let lines = newest(lines).into();
            // The last watcher may be gone by now.
            let _ = commits.send(Commit { accepted, lines });
        }
    }

    /// Adds a watcher.
    ///
    /// # Errors
    /// [`Error::Busy`] if there are too many, or the server stops.
    pub fn watch(self: &Arc<Self>) -> Result<Watch> {
        let commits = self.commits.lock();
        let commits = commits.as_ref().ok_or(Error::Busy("the server stops"))?;
        if self.watchers.fetch_add(1, Ordering::AcqRel) >= MAX_WATCHERS {
            self.watchers.fetch_sub(1, Ordering::AcqRel);
            return Err(Error::Busy("too many watch the live events"));
        }
        Ok(Watch {
            live: self.clone(),
            commits: commits.subscribe(),
        })
    }

    /// Tells all watchers that nothing more comes.
    pub fn end(&self) {
        self.commits.lock().take();
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }
}

impl Watch {
    /// The next commit, with those in between that were missed; `None` when the server stops.
    pub async fn next(&mut self) -> Option<Commit> {
        loop {
            match self.commits.recv().await {
                Ok(commit) => return Some(commit),
                // It goes on with the oldest that is still there.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The newest of the commits that are there already, with the sum of all.
    pub fn gather(&mut self, first: Commit) -> Commit {
        let mut lines = first.lines.to_vec();
        let mut accepted = first.accepted;
        loop {
            match self.commits.try_recv() {
                Ok(commit) => {
                    accepted += commit.accepted;
                    lines.extend_from_slice(&commit.lines);
                }
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => break,
            }
        }
        Commit {
            accepted,
            lines: newest(&lines).into(),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.live.watchers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The last of some whole lines, within the limits.
fn newest(lines: &[u8]) -> &[u8] {
    let mut start = lines.len();
    let ends = memchr::memrchr_iter(b'\n', lines)
        .skip(1)
        .map(|end| end + 1);
    for line_start in ends.chain([0]).take(MAX_EVENTS) {
        if lines.len() - line_start > MAX_BYTES {
            break;
        }
        start = line_start;
    }
    lines.get(start..).unwrap_or_default()
}

/// The last events of a log that is `end` bytes long. Damaged lines are left out.
///
/// # Errors
/// If the log cannot be read.
pub(super) fn newest_of_log(file: &File, end: u64) -> Result<Commit> {
    let start = end.saturating_sub(MAX_BYTES as u64);
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact_at(&mut bytes, start)
        .map_err(Error::io("read", super::EVENT_LOG_FILE.as_ref()))?;
    let whole = lines(&bytes).filter(|line| {
        line.strip_suffix(b"\n")
            .is_some_and(|line| read_line(line).is_ok())
    });
    let whole = whole.collect::<Vec<_>>().concat();
    let newest = newest(&whole);
    Ok(Commit {
        accepted: lines(newest).count(),
        lines: newest.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_whole_lines_are_shown() {
        assert_eq!(newest(b""), b"");
        assert_eq!(newest(b"a\nb\n"), b"a\nb\n");
        let many = b"x\n".repeat(MAX_EVENTS + 5);
        assert_eq!(newest(&many).len(), 2 * MAX_EVENTS);
        let mut long = vec![b'y'; MAX_BYTES];
        long.extend_from_slice(b"\nlast\n");
        assert_eq!(newest(&long), b"last\n");
        assert_eq!(newest(&long[..=MAX_BYTES]), b"");
    }

    #[test]
    fn a_watcher_sees_what_comes_and_the_end() -> Result<()> {
        let live = Arc::new(Live::default());
        live.show(1, b"nobody looks\n");
        let mut watch = live.watch()?;
        live.show(2, b"a\nb\n");
        live.show(1, b"c\n");
        live.end();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(Error::io("start", "a runtime".as_ref()))?;
        let first = runtime.block_on(watch.next());
        let seen = first.map(|first| watch.gather(first));
        let seen = seen.map(|commit| (commit.accepted, commit.lines.to_vec()));
        assert_eq!(seen, Some((3, b"a\nb\nc\n".to_vec())));
        assert!(runtime.block_on(watch.next()).is_none());
        assert_eq!(live.watchers(), 1);
        drop(watch);
        assert_eq!(live.watchers(), 0);
        assert!(live.watch().is_err(), "the server stops");
        Ok(())
    }

    #[test]
    fn there_are_only_so_many_watchers() -> Result<()> {
        let live = Arc::new(Live::default());
        let watches = (0..MAX_WATCHERS)
            .map(|_| live.watch())
            .collect::<Result<Vec<_>>>()?;
        assert!(live.watch().is_err());
        drop(watches);
        live.watch().map(drop)
    }
}
