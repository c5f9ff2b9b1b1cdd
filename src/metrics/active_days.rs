//! Active users by day, from which active users, lifecycle, stickiness and retention follow.
//!
//! Users are codes of the store's dictionary; anonymous events have none.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::NaiveDate;
use roaring::{MultiOps, RoaringBitmap};

use super::budget::set_bytes;
use crate::daily::Day;
use crate::window::Period;

/// The users of each day.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActiveDays {
    days: BTreeMap<Day, RoaringBitmap>,
}

impl ActiveDays {
    /// Adds users of a day.
    pub fn add(&mut self, day: Day, users: &RoaringBitmap) {
        *self.days.entry(day).or_default() |= users;
    }

    /// Removes all other users.
    pub fn keep(&mut self, users: &RoaringBitmap) {
        for of_day in self.days.values_mut() {
            *of_day &= users;
        }
    }

    /// Removes the days before `day` and returns them.
    pub fn take_before(&mut self, day: NaiveDate) -> Self {
        let rest = self.days.split_off(&day.to_epoch_days());
        Self {
            days: std::mem::replace(&mut self.days, rest),
        }
    }

    /// The users of a day.
    pub fn of_day(&self, day: NaiveDate) -> Option<&RoaringBitmap> {
        self.days.get(&day.to_epoch_days())
    }

    /// The users of a range of days.
    pub fn of_days(&self, days: Range<Day>) -> RoaringBitmap {
        self.days.range(days).map(|(_, users)| users).union()
    }

    /// The users of a calendar period.
    pub fn of_period(&self, period: Period) -> RoaringBitmap {
        self.of_days(period.first_day.to_epoch_days()..period.last_day.to_epoch_days() + 1)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        self.days.values().map(set_bytes).sum()
    }

    /// All users.
    pub fn users(&self) -> RoaringBitmap {
        self.days.values().union()
    }
}
