//! Import of existing events: NDJSON or arrays of events, plain or compressed, from files or
//! standard input.

mod chunks;
mod foreign;
mod source;

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::error::{Error, ErrorCode, Result};
use crate::event::identity::call_after;
use crate::event::split::{Splitter, Step};
use crate::event::{DeclaredTypes, Event, EventCode, Note, Outcome, RawEvent, read_event};
use crate::placement::{Placement, place};
use crate::plan::CheckedPlan;
use crate::progress::Progress;
use crate::sdk::Mapped;
use crate::store::{Call, Calls, HeldBatch, Loaded, Part, RestCounts, Store, pipeline};
use crate::window::DAY_US;
use chunks::{Chunk, Chunks, Fault};
pub use foreign::Foreign;
pub use source::Source;
use source::{DESCRIBED_REJECTIONS, next_chunk};

/// Bytes of quarantined events that are written at once.
const HELD_BYTES: usize = 1 << 20;

/// The outcome of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Events stored.
    pub accepted: u64,
    /// Identity calls that were stored after events with two ids of a user, in addition to these.
    #[serde(skip_serializing_if = "is_zero")]
    pub identity_calls: u64,
    /// Events that are stored already, recognised by their id.
    pub duplicates: u64,
    /// Events older than any window.
    pub too_old: u64,
    /// Lines and elements of arrays that are not valid events, and files of other formats.
    pub refused: u64,
    /// Events that the tracking plan quarantines.
    #[serde(skip_serializing_if = "is_zero")]
    pub quarantined: u64,
    /// Accepted events with a name beyond a daily limit.
    #[serde(skip_serializing_if = "RestCounts::is_empty")]
    pub rest: RestCounts,
    /// The reasons for the first rejections, with file and line.
    pub errors: Vec<String>,
    /// Number of events that were changed, or do not follow the tracking plan, by the code of the
    /// note; those that the plan quarantines too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<EventCode, u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Changes of what is imported.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The day of the newest event, to which all timestamps are shifted by whole days.
    pub rebase_to: Option<NaiveDate>,
    /// The product whose files they are; ours if none.
    pub from: Option<Foreign>,
}

/// Stores all events of the sources, received at `now`. Events that the plan quarantines are
/// quarantined, as those of clients are. Of files of another product none is imported if one has a
/// record of another shape.
///
/// # Errors
/// If a source cannot be read, the store cannot write, or it is cancelled; events stored before
/// that are kept.
pub fn import(
    store: &Store,
    plan: &CheckedPlan,
    sources: &[Source],
    options: &Options,
    now: DateTime<Utc>,
    progress: &Progress,
) -> Result<Imported> {
    let newest_ts_us = match (&options.from, options.rebase_to) {
        (Some(foreign), _) => foreign.check(sources, plan)?,
        (None, Some(_)) => newest_ts_us(sources, plan.types())?,
        (None, None) => None,
    };
    let shift_us = options
        .rebase_to
        .map_or(0, |day| days_to(day, newest_ts_us) * DAY_US);
    if let Some(total) = sources.iter().map(Source::bytes).sum() {
        progress.set_total(total);
    }
    let importer = Importer {
        store,
        progress,
        plan,
        from: options.from.as_ref(),
        received_at_us: store.receive(now)?.at_us,
        shift_us,
    };
    let mut imported = Imported::default();
    for source in sources {
        importer.run(source, &mut imported)?;
    }
    Ok(imported)
}

/// The timestamp of the newest valid event of all sources, in µs.
fn newest_ts_us(sources: &[Source], types: &DeclaredTypes) -> Result<Option<i64>> {
    let mut newest = None;
    for source in sources {
        if *source == Source::Stdin {
            return Err(Error::bad_input(
                ErrorCode::BadRebaseTo,
                "--rebase-to needs two passes and cannot be used with standard input; pass a file",
            ));
        }
        let mut chunks = Chunks::new(source.open(&Progress::default())?);
        let name = source.name();
        pipeline::ordered(
            || next_chunk(&mut chunks, &name),
            |chunk: Chunk| {
                let mut newest = None;
                for record in chunk.records() {
                    each_event(&chunk, record, |raw| {
                        newest = newest.max(valid_ts_us(raw, types));
                    });
                }
                newest
            },
            |found| {
                newest = newest.max(found);
                Ok(())
            },
        )?;
    }
    Ok(newest)
}

/// The timestamp of an event that is valid at that time.
fn valid_ts_us(event: RawEvent<'_>, types: &DeclaredTypes) -> Option<i64> {
    let ts_us = event.ts_us()?;
    let outcome = event.validate_among(types, ts_us, 0);
    matches!(outcome, Outcome::Accepted(..)).then_some(ts_us)
}

/// Calls `found` with each event of a record. Most records are one event; a line may be an array,
/// or hold several events without a break between them.
fn each_event<'a>(chunk: &Chunk, record: &'a [u8], mut found: impl FnMut(RawEvent<'a>)) {
    let record = record.trim_ascii();
    if !chunk.has_lines() {
        return found(RawEvent::read(record));
    }
    if record.is_empty() {
        return;
    }
    match read_event(record) {
        Ok(event) if event.has_event_type() => return found(event),
        _ => {}
    }
    let mut splitter = Splitter::default();
    loop {
        match splitter.step(record, true) {
            Step::Event(place) => found(RawEvent::read(record.get(place).unwrap_or_default())),
            Step::Malformed(at) => {
                found(RawEvent::read(record.get(at..).unwrap_or_default()));
                return;
            }
            Step::End | Step::More => return,
        }
    }
}

/// Number of days from the day of `newest_us` to `day`.
fn days_to(day: NaiveDate, newest_us: Option<i64>) -> i64 {
    let epoch_day = day.signed_duration_since(NaiveDate::default()).num_days();
    newest_us.map_or(0, |newest_us| epoch_day - newest_us.div_euclid(DAY_US))
}

struct Importer<'a> {
    store: &'a Store,
    progress: &'a Progress,
    plan: &'a CheckedPlan,
    from: Option<&'a Foreign>,
    received_at_us: i64,
    /// Added to all timestamps.
    shift_us: i64,
}

/// The outcome of validating a chunk.
#[derive(Default)]
struct ChunkOutcome {
    records: u64,
    too_old: u64,
    quarantined: u64,
    /// Events that were to be quarantined and are stored already.
    duplicates: u64,
    rejections: Vec<Rejection>,
    notes: BTreeMap<EventCode, u64>,
}

/// A record that is not stored, and the reason.
struct Rejection {
    /// The kind of record, and its index in the chunk, from 0. `None` for the whole file.
    record: Option<(&'static str, u64)>,
    message: String,
}

impl Importer<'_> {
    fn run(&self, source: &Source, imported: &mut Imported) -> Result<()> {
        let reader = match self.from {
            Some(_) => foreign::open(source, self.progress)?,
            None => source.open(self.progress)?,
        };
        let mut chunks = Chunks::new(reader);
        let name = source.name();
        let mut records_before = 0;
        let mut count = |outcome: ChunkOutcome, loaded: Loaded| {
            imported.accepted += loaded.logged as u64;
            imported.identity_calls += loaded.added as u64;
            imported.duplicates += loaded.duplicates as u64 + outcome.duplicates;
            imported.quarantined += outcome.quarantined;
            imported.rest.add(loaded.rest);
            imported.too_old += outcome.too_old;
            imported.refused += outcome.rejections.len() as u64;
            for (code, events) in outcome.notes {
                *imported.notes.entry(code).or_default() += events;
            }
            for Rejection { record, message } in outcome.rejections {
                if imported.errors.len() < DESCRIBED_REJECTIONS {
                    imported.errors.push(match record {
                        None => format!("{name}: {message}"),
                        Some((kind, index)) => {
                            format!("{name}, {kind} {}: {message}", records_before + index + 1)
                        }
                    });
                }
            }
            records_before += outcome.records;
        };
        while self.store.load(
            || {
                self.progress.check()?;
                next_chunk(&mut chunks, &name)
            },
            |chunk, part| self.validate(&chunk, part),
            &mut count,
        )? {}
        Ok(())
    }

    /// Calls `found` with what becomes of each event of a record.
    fn each_outcome<'a>(
        &'a self,
        chunk: &Chunk,
        record: &'a [u8],
        mut found: impl FnMut(Mapped<'a>),
    ) {
        let (received_at_us, shift_us) = (self.received_at_us, self.shift_us);
        match self.from {
            None => each_event(chunk, record, |raw| {
                let outcome = raw.validate_among(self.plan.types(), received_at_us, shift_us);
                found(outcome.into());
            }),
            Some(foreign) => foreign::each_message(chunk, record, |message| {
                found(foreign.map(message, self.plan, received_at_us, shift_us));
            }),
        }
    }

    /// Validates the events of a chunk and adds the valid ones to `part`. Those that the plan
    /// quarantines are durable when this returns, before the group of the chunk is: an import that
    /// dies in between finds them when it is repeated.
    ///
    /// # Errors
    /// If they cannot be written.
    fn validate(&self, chunk: &Chunk, part: &mut Part) -> Result<ChunkOutcome> {
        let kind = if chunk.has_lines() { "line" } else { "event" };
        let mut outcome = ChunkOutcome::default();
        let mut held = HeldBatch::default();
        let mut calls = Calls::default();
        for json in chunk.records() {
            let record = Some((kind, outcome.records));
            let index = outcome.records as usize;
            outcome.records += 1;
            self.each_outcome(chunk, json, |found| match found.outcome {
                Outcome::Accepted(mut event, notes) => {
                    self.plan.group_path(&mut event);
                    if self.passes(&event, notes, record, &mut held, &mut outcome) {
                        part.push(&event);
                    }
                    if let Some(alias) = found.alias
                        && let Some(key) = part.add_statement(&event, &alias)
                    {
                        let event = call_after(event, &alias);
                        calls.add(Call { key, index, event });
                    }
                }
                Outcome::TooOld => outcome.too_old += 1,
                Outcome::Rejected(code, message) => outcome.rejections.push(Rejection {
                    record,
                    message: format!("{code}: {message}"),
                }),
            });
            if held.bytes() >= HELD_BYTES {
                outcome.quarantined += self.quarantine(std::mem::take(&mut held))?;
            }
        }
        for call in calls {
            let record = Some((kind, call.index as u64));
            if self.passes(&call.event, Vec::new(), record, &mut held, &mut outcome) {
                part.push_call(&call);
            }
        }
        outcome.quarantined += self.quarantine(held)?;
        if let Some(fault) = chunk.fault() {
            let (record, message) = match fault {
                Fault::Foreign(message) => (None, message),
                Fault::Record(message) => (Some((kind, outcome.records)), message),
            };
            outcome.records += u64::from(record.is_some());
            outcome.rejections.push(Rejection {
                record,
                message: message.clone(),
            });
        }
        self.progress.add_events(outcome.records);
        Ok(outcome)
    }

    /// Validates an event by the plan. Returns whether it is to be stored: one that the plan
    /// quarantines is in `held`.
    fn passes(
        &self,
        event: &Event<'_>,
        mut notes: Vec<Note>,
        record: Option<(&'static str, u64)>,
        held: &mut HeldBatch,
        outcome: &mut ChunkOutcome,
    ) -> bool {
        let placement = place(self.store, self.plan, event, held, &mut notes);
        let is_stored = matches!(placement, Placement::Store);
        match placement {
            Placement::Store | Placement::Hold => {
                for (code, _) in notes {
                    *outcome.notes.entry(code).or_default() += 1;
                }
            }
            Placement::Quarantined => outcome.quarantined += 1,
            Placement::Duplicate => outcome.duplicates += 1,
            Placement::Ignored => {}
            Placement::Rejected(message) => outcome.rejections.push(Rejection {
                record,
                message: format!("{}: {message}", EventCode::QuarantineFull),
            }),
        }
        is_stored
    }

    /// Quarantines events. Returns how many are in the quarantine now.
    fn quarantine(&self, held: HeldBatch) -> Result<u64> {
        if held.is_empty() {
            return Ok(0);
        }
        let reply = self.store.append_held(held)?.blocking_recv();
        let stopped = |_| Error::Poisoned("the writer of the quarantine has stopped".into());
        let counts = reply.map_err(stopped)??;
        Ok((counts.held + counts.duplicates) as u64)
    }
}

/// Parses the value of `--rebase-to`: a day, or `today`.
///
/// # Errors
/// A message that says what is allowed.
pub fn parse_rebase_to(value: &str, now: DateTime<Utc>) -> Result<NaiveDate, String> {
    match value {
        "today" => Ok(now.date_naive()),
        day => crate::window::parse_day(day).map_err(|message| format!("{message}, or today")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::timestamp;

    #[test]
    fn rebase_to_shifts_timestamps_by_complete_days() {
        let newest = timestamp::parse_rfc3339("2024-06-29T23:59:59.999999Z");
        let day = crate::window::parse_day("2024-07-01").expect("a day");
        assert_eq!(days_to(day, newest), 2);
        assert_eq!(days_to(day, None), 0);
        let old = timestamp::parse_rfc3339("1969-12-31T23:00:00Z");
        assert_eq!(days_to(NaiveDate::default(), old), 1);
    }
}
