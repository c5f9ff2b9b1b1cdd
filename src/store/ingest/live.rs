//! Live subscriptions: accepted events are sent to subscribers as they are committed.
//!
//! Without subscribers a commit reads one counter. With subscribers, the newest lines of each
//! commit are copied; a subscriber that is too slow misses commits, and gets the number of all
//! events. `system` events are neither sent nor counted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::broadcast::{self, Receiver, Sender};

use crate::error::{Error, Result};
use crate::event::{self, EventType, SYSTEM_NAME, event_type_of, lines, read_line};
use crate::store::files::shape::EVENT_LOG_FILE;
use crate::store::lock::{Ordered, Rank};

/// Most subscribers; each keeps a connection open.
const MAX_SUBSCRIBERS: usize = 16;
/// Capacity of the broadcast channel, in commits.
const QUEUE_COMMITS: usize = 64;
/// Most events of a commit that are sent: more than fit on a screen.
const MAX_EVENTS: usize = 100;
/// Most bytes of a commit that are sent. With the capacity of the channel this bounds the memory
/// that slow subscribers take.
const MAX_BYTES: usize = 64 << 10;

/// The newest events of one commit.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Number of events of the commit.
    pub accepted: usize,
    /// The newest of them, as complete lines of the event log, oldest first.
    pub lines: Arc<[u8]>,
}

/// Broadcast channel from the writer to the subscribers.
pub(in crate::store) struct Live {
    subscribers: AtomicUsize,
    /// `None` once the server is stopping.
    commits: Ordered<Option<Sender<Commit>>>,
}

/// A subscription, which ends when it is dropped.
pub struct Subscription {
    live: Arc<Live>,
    commits: Receiver<Commit>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            subscribers: AtomicUsize::new(0),
            commits: Ordered::new(Rank::Leaf, Some(broadcast::channel(QUEUE_COMMITS).0)),
        }
    }
}

impl Live {
    /// Sends a commit to the subscribers.
    pub fn show(&self, accepted: usize, lines: &[u8]) {
        if self.subscribers.load(Ordering::Acquire) == 0 {
            return;
        }
        let hidden = event::lines(lines).filter(|line| is_system(line)).count();
        if hidden == accepted {
            return;
        }
        if let Some(commits) = self.commits.lock().as_ref() {
            let lines = match hidden {
                0 => newest(lines).into(),
                _ => {
                    let seen = event::lines(lines).filter(|line| !is_system(line));
                    newest(&seen.collect::<Vec<_>>().concat()).into()
                }
            };
            let accepted = accepted.saturating_sub(hidden);
            // The last subscriber may be gone by now.
            let _ = commits.send(Commit { accepted, lines });
        }
    }

    /// Adds a subscriber.
    ///
    /// # Errors
    /// [`Error::Busy`] if there are too many, [`Error::Cancelled`] if the server is stopping.
    pub fn subscribe(self: &Arc<Self>) -> Result<Subscription> {
        let commits = self.commits.lock();
        let stopping = Error::Cancelled("the server is stopping");
        let commits = commits.as_ref().ok_or(stopping)?;
        if self.subscribers.fetch_add(1, Ordering::AcqRel) >= MAX_SUBSCRIBERS {
            self.subscribers.fetch_sub(1, Ordering::AcqRel);
            return Err(Error::Busy("too many subscribers of live events"));
        }
        Ok(Subscription {
            live: self.clone(),
            commits: commits.subscribe(),
        })
    }

    /// Ends all subscriptions, and allows no more.
    pub fn end(&self) {
        self.commits.lock().take();
    }

    /// Number of subscribers.
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }
}

impl Subscription {
    /// Waits for the next commit that was not missed; `None` when the server stops.
    pub async fn next(&mut self) -> Option<Commit> {
        loop {
            match self.commits.recv().await {
                Ok(commit) => return Some(commit),
                // It continues with the oldest commit in the channel.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Merges `first` with the commits that are waiting: all their events are counted, and the
    /// newest lines kept.
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

impl Drop for Subscription {
    fn drop(&mut self) {
        self.live.subscribers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// True if a line is that of a `system` event.
fn is_system(line: &[u8]) -> bool {
    event_type_of(line) == Some(SYSTEM_NAME.as_bytes())
}

/// The last lines within the limits.
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

/// The last events of a log that is `end` bytes long, without damaged lines.
///
/// # Errors
/// If the log cannot be read.
pub(in crate::store) fn newest_of_log(file: &File, end: u64) -> Result<Commit> {
    let start = end.saturating_sub(MAX_BYTES as u64);
    let mut bytes = vec![0; (end - start) as usize];
    file.read_exact_at(&mut bytes, start)
        .map_err(Error::io("read", EVENT_LOG_FILE.as_ref()))?;
    let valid = lines(&bytes).filter(|line| {
        line.strip_suffix(b"\n")
            .and_then(|line| read_line(line).ok())
            .is_some_and(|event| event.event_type != EventType::System)
    });
    let valid = valid.collect::<Vec<_>>().concat();
    let newest = newest(&valid);
    Ok(Commit {
        accepted: lines(newest).count(),
        lines: newest.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_complete_lines_are_sent() {
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
    fn a_subscriber_gets_later_commits_and_the_end() -> Result<()> {
        let live = Arc::new(Live::default());
        live.show(1, b"before\n");
        let mut watch = live.subscribe()?;
        live.show(2, b"a\nb\n");
        live.show(1, b"c\n");
        live.end();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(Error::system("start a runtime"))?;
        let first = runtime.block_on(watch.next());
        let seen = first.map(|first| watch.gather(first));
        let seen = seen.map(|commit| (commit.accepted, commit.lines.to_vec()));
        assert_eq!(seen, Some((3, b"a\nb\nc\n".to_vec())));
        assert!(runtime.block_on(watch.next()).is_none());
        assert_eq!(live.subscribers(), 1);
        drop(watch);
        assert_eq!(live.subscribers(), 0);
        assert!(matches!(live.subscribe(), Err(Error::Cancelled(_))));
        Ok(())
    }

    #[test]
    fn system_events_are_neither_sent_nor_counted() -> Result<()> {
        let line = |event_type: &str| {
            format!(
                "{{\"ts\":\"2024-03-01T00:00:00Z\",\"event_type\":\"{event_type}\",\"user_id\":null}}\n"
            )
        };
        let live = Arc::new(Live::default());
        let mut watch = live.subscribe()?;
        let [system, action] = [line("system"), line("action")];
        live.show(2, format!("{system}{system}").as_bytes());
        live.show(2, format!("{action}{system}").as_bytes());
        live.show(1, line("systems").as_bytes());
        live.end();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(Error::system("start a runtime"))?;
        let first = runtime.block_on(watch.next());
        let seen = first.map(|first| watch.gather(first));
        let seen = seen.map(|commit| (commit.accepted, commit.lines.to_vec()));
        let expected = format!("{action}{}", line("systems")).into_bytes();
        assert_eq!(seen, Some((2, expected)));
        Ok(())
    }

    #[test]
    fn the_number_of_subscribers_is_limited() -> Result<()> {
        let live = Arc::new(Live::default());
        let watches = (0..MAX_SUBSCRIBERS)
            .map(|_| live.subscribe())
            .collect::<Result<Vec<_>>>()?;
        assert!(matches!(live.subscribe(), Err(Error::Busy(_))));
        drop(watches);
        live.subscribe().map(drop)
    }
}
