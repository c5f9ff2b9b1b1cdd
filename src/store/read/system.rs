//! `system` events in what is read: hidden from all queries but those whose filters name them.

use std::sync::Arc;

use polars::prelude::*;

use crate::dictionary::SYSTEM_TYPE;
use crate::event::SYSTEM_NAME;
use crate::schema;
use crate::store::erased::Visible;
use crate::store::files::segment::Segment;

/// Access of a reader to `system` events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemEvents {
    /// It gets none.
    Hidden,
    /// It gets them as all others.
    Included,
}

impl SystemEvents {
    /// The condition on events with the columns of [`schema::lake`], of which some are `system`
    /// events if `has_system`, together with another condition.
    pub(super) fn of_lake(self, has_system: bool, and: Option<Expr>) -> Option<Expr> {
        self.filter(has_system, and, || {
            col(schema::EVENT_TYPE).neq(lit(SYSTEM_NAME))
        })
    }

    /// The same for events of the tail, whose types are codes.
    pub(super) fn of_tail(self, has_system: bool, and: Option<Expr>) -> Option<Expr> {
        self.filter(has_system, and, || {
            col(schema::EVENT_TYPE).to_physical().neq(lit(SYSTEM_TYPE))
        })
    }

    /// The same with what an erasure in progress hides.
    pub(super) fn of_visible(self, has_system: bool, visible: Option<Visible>) -> Option<Expr> {
        let visible = visible.map(|visible| match (self, has_system) {
            (Self::Included, true) => visible.all(),
            // There are no identity calls, or none is read.
            _ => visible.users,
        });
        self.of_lake(has_system, visible)
    }

    /// The same for the events of some segments.
    pub(super) fn of_segments(
        self,
        segments: &[Arc<Segment>],
        visible: Option<Visible>,
    ) -> Option<Expr> {
        let has_system = segments.iter().any(|segment| segment.meta.system > 0);
        self.of_visible(has_system, visible)
    }

    fn filter(
        self,
        has_system: bool,
        and: Option<Expr>,
        seen: impl FnOnce() -> Expr,
    ) -> Option<Expr> {
        match (self, has_system) {
            (Self::Hidden, true) => Some(match and {
                Some(and) => seen().and(and),
                None => seen(),
            }),
            _ => and,
        }
    }
}
