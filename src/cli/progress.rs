//! Progress of long work on stderr: a bar on a terminal, and elsewhere a line every ten seconds.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{
    BinaryBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle,
};

use crate::progress::{Counted, Progress};

/// Interval at which a bar is drawn.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Interval of lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The unit that work is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of the input or output. The rate is that of the events, if these are counted.
    Bytes,
    /// Something that is counted, by its name: `events`, `days`, `files`.
    Things(&'static str),
}

/// Shows the progress of work until it is dropped.
pub struct ShownProgress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ShownProgress {
    /// Shows progress on stderr. `work` names the work in lines, such as `export`.
    pub fn start(work: &'static str, unit: Unit, progress: &Progress) -> Self {
        if std::io::stderr().is_terminal() {
            let bar = bar();
            Self::every(BAR_INTERVAL, progress, move |shown| match shown {
                Some((counted, elapsed)) => {
                    bar.set_length(counted.total.unwrap_or_default());
                    bar.set_position(counted.done.min(counted.total.unwrap_or_default()));
                    bar.set_message(message(counted, unit, elapsed));
                    bar.tick();
                }
                None => bar.finish_and_clear(),
            })
        } else {
            Self::lines(work, unit, progress, LINE_INTERVAL, std::io::stderr())
        }
    }

    fn lines(
        work: &'static str,
        unit: Unit,
        progress: &Progress,
        interval: Duration,
        mut out: impl Write + Send + 'static,
    ) -> Self {
        Self::every(interval, progress, move |shown| {
            if let Some((counted, elapsed)) = shown {
                // Progress is not worth the end of the work.
                let _ = writeln!(out, "{work}: {}", message(counted, unit, elapsed));
            }
        })
    }

    /// Calls `show` with the counters and the time since the start at each interval, and with
    /// `None` at the end.
    fn every(
        interval: Duration,
        progress: &Progress,
        mut show: impl FnMut(Option<(Counted, Duration)>) + Send + 'static,
    ) -> Self {
        let (stop, stopped) = channel::<()>();
        let progress = progress.clone();
        let started = Instant::now();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                show(Some((progress.counted(), started.elapsed())));
            }
            show(None);
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for ShownProgress {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // The thread only shows the progress.
            let _ = thread.join();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:16} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// The progress as a sentence: what is done of what, the rate, and the time left at this rate.
fn message(counted: Counted, unit: Unit, elapsed: Duration) -> String {
    let Counted {
        done,
        total,
        events,
    } = counted;
    let amount = |amount: u64| match unit {
        Unit::Bytes => BinaryBytes(amount).to_string(),
        Unit::Things(_) => HumanCount(amount).to_string(),
    };
    let mut message = amount(done);
    if let Some(total) = total {
        // Writing to a string cannot fail.
        let _ = write!(message, " of {}", amount(total));
    }
    if let Unit::Things(things) = unit {
        let _ = write!(message, " {things}");
    }
    if let Some(total) = total {
        let percent = u128::from(done) * 100 / u128::from(total.max(1));
        let _ = write!(message, " ({}%)", percent.min(100));
    }
    let rate = counted.rate(elapsed);
    let _ = match unit {
        Unit::Bytes if events > 0 => {
            let read = Counted {
                done: events,
                ..counted
            };
            let events_a_second = HumanCount(read.rate(elapsed) as u64);
            write!(
                message,
                ", {} events, {events_a_second}/s",
                HumanCount(events)
            )
        }
        Unit::Bytes => write!(message, ", {}/s", BinaryBytes(rate as u64)),
        Unit::Things(_) => write!(message, ", {rate:.1}/s"),
    };
    if let Some(left) = counted.left(elapsed) {
        let _ = write!(message, ", {} left", HumanDuration(left));
    }
    message
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

    use super::*;

    /// Passes on what is written.
    struct Written(Sender<String>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // The receiver has what it waited for.
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(lines: &Receiver<String>, ending: &str) -> bool {
        let mut all = String::new();
        while !all.contains(ending) {
            match lines.recv_timeout(Duration::from_secs(60)) {
                Ok(part) => all += &part,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    #[test]
    fn lines_show_the_counters_until_the_work_ends() {
        let progress = Progress::default();
        let (sender, lines) = channel();
        let unit = Unit::Things("days");
        let short = Duration::from_millis(1);
        let shown_progress =
            ShownProgress::lines("rebuild", unit, &progress, short, Written(sender));
        assert!(shown(&lines, "rebuild: 0 days"));
        progress.set_total(4);
        progress.add(3);
        assert!(shown(&lines, "rebuild: 3 of 4 days (75%), "));
        drop(shown_progress);
        // The thread has ended, and its end of the channel with it.
        assert!(lines.iter().all(|line| !line.is_empty()));
    }

    #[test]
    fn a_message_has_the_rate_and_the_time_left() {
        let counted = |done, total, events| Counted {
            done,
            total,
            events,
        };
        let seconds = Duration::from_secs;
        for (counted, unit, expected) in [
            (
                counted(250, Some(1_000), 0),
                Unit::Things("events"),
                "250 of 1,000 events (25%), 25.0/s, 30 seconds left",
            ),
            (
                counted(0, Some(7), 0),
                Unit::Things("days"),
                "0 of 7 days (0%), 0.0/s",
            ),
            (counted(5, None, 0), Unit::Things("files"), "5 files, 0.5/s"),
            (
                counted(1 << 20, Some(4 << 20), 12_340),
                Unit::Bytes,
                "1.00 MiB of 4.00 MiB (25%), 12,340 events, 1,234/s, 30 seconds left",
            ),
            (
                counted(10 << 10, None, 0),
                Unit::Bytes,
                "10.00 KiB, 1.00 KiB/s",
            ),
            (
                counted(20, Some(10), 0),
                Unit::Things("days"),
                "20 of 10 days (100%), 2.0/s, 0 seconds left",
            ),
        ] {
            assert_eq!(message(counted, unit, seconds(10)), expected);
        }
        // Nothing overflows.
        let huge = counted(1, Some(u64::MAX), u64::MAX);
        assert!(message(huge, Unit::Bytes, seconds(u64::MAX)).contains("events"));
    }
}
