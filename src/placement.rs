//! Placement: a valid event goes to the event log, or to the quarantine, as the tracking plan says.
//! The same for ingest and for imports.

use crate::event::{Event, Note};
use crate::plan::{CheckedPlan, Verdict};
use crate::store::{HeldBatch, Hold, HoldReason, MAX_HELD_BYTES, Store};

/// The place where a valid event goes.
#[derive(Debug)]
pub enum Placement {
    /// It is to be stored.
    Store,
    /// It is in the batch of events to be held.
    Hold,
    /// It is in the quarantine already.
    Quarantined,
    /// It is stored already.
    Duplicate,
    /// It happened before the erasure of its user, or of one whom an identity call names.
    Ignored,
    /// It does not follow the plan, and the quarantine is full: the message for the client.
    Rejected(String),
}

/// Validates an event by the plan, and adds it to `held` if the plan quarantines it. Deviations are
/// counted, and added to the notes.
pub fn place(
    store: &Store,
    plan: &CheckedPlan,
    event: &Event<'_>,
    held: &mut HeldBatch,
    notes: &mut Vec<Note>,
) -> Placement {
    match plan.validate(event) {
        Verdict::Passes => {}
        Verdict::Warns(code, message) => {
            store.monitoring().warned.count(code.into(), 1);
            notes.push((code, message));
        }
        Verdict::Quarantines(code, message) => {
            return match store.hold(held, event, &HoldReason::of_plan(code, &message)) {
                Hold::Added => {
                    store.monitoring().quarantined.count(code.into(), 1);
                    notes.push((code, message));
                    Placement::Hold
                }
                Hold::Held => Placement::Quarantined,
                Hold::Stored => Placement::Duplicate,
                Hold::Erased => Placement::Ignored,
                Hold::Full => Placement::Rejected(no_space(&message)),
            };
        }
    }
    match store.is_held(event) {
        true => Placement::Quarantined,
        false => Placement::Store,
    }
}

/// The message about an event that is to be held for `reason`, and for which there is no space.
fn no_space(reason: &str) -> String {
    let mib = MAX_HELD_BYTES >> 20;
    format!("the quarantine has {mib} MiB of events, which is the limit; {reason}")
}
