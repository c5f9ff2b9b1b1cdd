//! The file of held events: those that a tracking plan keeps out of the event log, and what is
//! understood of malformed messages, each a line of JSON with a checksum, the reason and the line
//! that the event would have in the log.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::folder::{Access, Folder};
use super::quarantine::{self, Piece};
use super::shape::HELD_EVENTS_FILE;
use crate::checksum;
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::event::{self, Event, EventCode, text};
use crate::store::files;

/// The reason why an event is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldReason<'a> {
    /// Its code.
    pub code: EventCode,
    /// A sentence.
    pub text: Cow<'a, str>,
    /// False if the event does not follow the tracking plan. True if it is what is understood of a
    /// malformed message: no plan makes it an event.
    pub is_malformed: bool,
}

/// A held event.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldEvent<'a> {
    /// The reason.
    pub reason: HoldReason<'a>,
    /// The event, with the time at which it was received.
    pub event: Event<'a>,
}

impl<'a> HoldReason<'a> {
    /// An event does not follow the tracking plan.
    pub fn of_plan(code: EventCode, text: &'a str) -> Self {
        Self {
            code,
            text: Cow::Borrowed(text),
            is_malformed: false,
        }
    }

    /// A message is not an event.
    pub fn malformed(code: EventCode, text: &'a str) -> Self {
        Self {
            is_malformed: true,
            ..Self::of_plan(code, text)
        }
    }
}

/// A line of the file.
#[derive(Deserialize)]
struct Line<'a> {
    code: EventCode,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(default)]
    malformed: bool,
    #[serde(borrow)]
    event: &'a RawValue,
}

/// Appends the line of a held event, newline included.
pub fn write(reason: &HoldReason<'_>, event: &Event<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    let code: &str = reason.code.into();
    out.extend_from_slice(br#"{"code":""#);
    out.extend_from_slice(code.as_bytes());
    out.extend_from_slice(br#"","reason":"#);
    text::encode(&reason.text, out);
    if reason.is_malformed {
        out.extend_from_slice(br#","malformed":true"#);
    }
    out.extend_from_slice(br#","event":"#);
    event::write_line(event, out);
    // Its newline.
    out.pop();
    checksum::close_object(out, start);
    out.push(b'\n');
}

/// Parses a line, given with its newline. `None` if it is not what was written.
pub fn read(line: &[u8]) -> Option<HeldEvent<'_>> {
    let line = line.strip_suffix(b"\n")?;
    checksum::check_object(line).ok()?;
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    Some(HeldEvent {
        reason: HoldReason {
            code: line.code,
            text: line.reason,
            is_malformed: line.malformed,
        },
        event: event::read_line(line.event.get().as_bytes()).ok()?,
    })
}

/// The open file.
pub struct HeldFile {
    path: PathBuf,
    /// None as long as no event was held.
    file: Option<File>,
    length: u64,
    durability: Durability,
    /// The reason why nothing is appended any more.
    poison: Option<String>,
}

impl HeldFile {
    /// Opens the file. A last line that a crash has torn was not acknowledged, and is cut; other
    /// damaged lines go to the quarantine of damaged pieces.
    ///
    /// # Errors
    /// If it cannot be read or changed.
    pub fn open(
        folder: &Folder,
        durability: Durability,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Self> {
        let mut held = Self {
            path: folder.path().join(HELD_EVENTS_FILE),
            file: None,
            length: 0,
            durability,
            poison: None,
        };
        let content = match std::fs::read(&held.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(held),
            read => read.map_err(Error::io("read", &held.path))?,
        };
        held.length = content.len() as u64;
        if folder.access() == Access::ReadOnly {
            return Ok(held);
        }
        let mut valid = Vec::with_capacity(content.len());
        let (mut damaged, mut offset) = (Vec::new(), 0);
        for line in event::lines(&content) {
            if read(line).is_some() {
                valid.extend_from_slice(line);
            } else if line.ends_with(b"\n") {
                damaged.push(Piece {
                    offset,
                    bytes: line.to_vec(),
                    reason: "not a held event",
                });
            }
            offset += line.len() as u64;
        }
        quarantine::keep(folder, HELD_EVENTS_FILE, &damaged, now)?;
        if valid.len() < content.len() {
            held.replace(folder, &valid)?;
        }
        Ok(held)
    }

    /// Bytes in the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// All lines.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn lines(&self) -> Result<Vec<u8>> {
        if self.length == 0 {
            return Ok(Vec::new());
        }
        let mut lines = vec![0; self.length as usize];
        files::open(&self.path)?
            .read_exact_at(&mut lines, 0)
            .map_err(Error::io("read", &self.path))?;
        Ok(lines)
    }

    /// Appends complete lines and makes them durable.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if there is no space; then the file is as before. [`Error::Poisoned`]
    /// for anything else; then nothing may be appended any more.
    pub fn append(&mut self, lines: &[u8]) -> Result<()> {
        if let Some(reason) = &self.poison {
            return Err(Error::Poisoned(reason.clone()));
        }
        let is_new = self.length == 0;
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(files::open_in_place(&self.path)?),
        };
        let written = files::may_fail("append", &self.path)
            .and_then(|()| file.write_all_at(lines, self.length))
            .and_then(|()| match self.durability {
                Durability::Sync => file.sync_data(),
                Durability::Os => Ok(()),
            });
        if let Err(error) = written {
            let is_cut = file.set_len(self.length).is_ok();
            let reason = format!("{}: {error}", self.path.display());
            return Err(match Error::io("append to", &self.path)(error) {
                Error::DiskFull if is_cut => Error::DiskFull,
                _ => self.stop(reason),
            });
        }
        if is_new && let Err(error) = files::sync_parent(&self.path) {
            return Err(self.stop(error.to_string()));
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Replaces all lines, atomically and durably.
    ///
    /// # Errors
    /// If a step fails; then the file has either the old or the new lines, and a restart finds out
    /// which.
    pub fn replace(&mut self, folder: &Folder, lines: &[u8]) -> Result<()> {
        folder
            .replace(HELD_EVENTS_FILE, lines)
            .inspect_err(|error| {
                // The rename may have happened.
                if !matches!(error, Error::DiskFull) {
                    self.poison.get_or_insert_with(|| error.to_string());
                }
            })?;
        // That of the old file.
        self.file = None;
        self.length = lines.len() as u64;
        Ok(())
    }

    fn stop(&mut self, reason: String) -> Error {
        let reason = self.poison.get_or_insert(reason);
        Error::Poisoned(reason.clone())
    }
}

/// Checks the lines. Returns a sentence for each damaged one. A last line without its end is torn,
/// or being written.
///
/// # Errors
/// If the file cannot be read.
pub fn verify(root: &Path) -> Result<Vec<String>> {
    let path = root.join(HELD_EVENTS_FILE);
    let content = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(Error::io("read", &path))?,
    };
    let lines = event::lines(&content).zip(1..);
    let complete = lines.filter(|(line, _)| line.ends_with(b"\n"));
    let damaged = complete.filter(|(line, _)| read(line).is_none());
    Ok(damaged
        .map(|(_, number)| format!("{HELD_EVENTS_FILE}, line {number}: it is not what was written"))
        .collect())
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::event::EventType;
    use crate::store::files::faults::{self, Failing};
    use crate::store::files::shape::QUARANTINE_FILE;

    fn held(id: &'static str) -> HeldEvent<'static> {
        HeldEvent {
            reason: HoldReason::of_plan(EventCode::PlanMetadata, "metadata/amount: \"why\""),
            event: Event {
                ts_us: 1_761_040_800_000_000,
                event_type: EventType::Declared("signup"),
                user_id: Some("u".into()),
                feature: None,
                metadata: r#"{"amount":1}"#.into(),
                url: None,
                event_id: Some(id.into()),
                received_at_us: 1_761_040_800_000_000,
            },
        }
    }

    fn line(id: &'static str) -> Vec<u8> {
        line_of(&held(id))
    }

    fn line_of(held: &HeldEvent<'_>) -> Vec<u8> {
        let mut line = Vec::new();
        write(&held.reason, &held.event, &mut line);
        line
    }

    fn open(folder: &Folder) -> Result<HeldFile> {
        HeldFile::open(folder, Durability::Sync, Utc::now())
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_no_flipped_bit_passes() {
        let line = line("a");
        assert_eq!(read(&line), Some(held("a")));
        for at in 0..line.len() {
            let mut flipped = line.clone();
            flipped[at] ^= 1;
            assert_eq!(read(&flipped), None, "{at}");
        }
        let malformed = HeldEvent {
            reason: HoldReason::malformed(EventCode::BadTs, "why"),
            ..held("b")
        };
        assert_eq!(read(&line_of(&malformed)), Some(malformed));
    }

    #[test]
    fn a_torn_line_is_cut_and_a_damaged_one_goes_to_the_quarantine_of_damage() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        open(&folder)?.append(&[line("a"), line("b")].concat())?;
        let path = dir.path().join(HELD_EVENTS_FILE);
        let mut content = std::fs::read(&path).expect("read");
        content[20] ^= 1;
        content.extend_from_slice(b"{\"code\":\"pl");
        std::fs::write(&path, content).expect("written");
        assert_eq!(verify(dir.path())?.len(), 1);
        assert_eq!(open(&folder)?.lines()?, line("b"));
        assert_eq!(verify(dir.path())?, Vec::<String>::new());
        assert!(dir.path().join(QUARANTINE_FILE).exists());
        Ok(())
    }

    #[test]
    fn each_operation_may_fail_and_leaves_complete_lines() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        open(&folder)?.append(&line("a"))?;
        let both = [line("a"), line("b")].concat();
        for replaces in [false, true] {
            for at in 0.. {
                let mut file = open(&folder)?;
                let armed = faults::fail_at(dir.path(), at, Failing::Once);
                let changed = match replaces {
                    true => file.replace(&folder, &both),
                    false => file.append(&line("b")),
                };
                let is_reached = armed.seen().len() > at;
                drop(armed);
                let found = open(&folder)?.lines()?;
                if !is_reached {
                    changed?;
                    assert_eq!(found, both);
                    break;
                }
                assert!(changed.is_err(), "{at}");
                assert!(found == line("a") || found == both, "{at}");
                open(&folder)?.replace(&folder, &line("a"))?;
            }
            open(&folder)?.replace(&folder, &line("a"))?;
        }
        Ok(())
    }
}
