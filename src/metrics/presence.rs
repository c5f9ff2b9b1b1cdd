//! Presence: which users were active on which day, from which active users, lifecycle, stickiness and retention follow.
//!
//! Users are numbers of the store's dictionary; anonymous events are nobody's.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::NaiveDate;
use chrono_tz::Tz;
use polars::prelude::*;
use roaring::{MultiOps, RoaringBitmap};

use super::day;
use crate::daily::Day;
use crate::error::Result;
use crate::schema;
use crate::window::Period;

const DAY: &str = "day";

/// The users of each day.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Presence {
    days: BTreeMap<Day, RoaringBitmap>,
}

/// A row for each day of the zone and user with an event, from events whose users are numbers.
pub fn presence(events: LazyFrame, tz: Tz) -> LazyFrame {
    events
        .filter(col(schema::USER_ID).is_not_null())
        .select([day(tz).alias(DAY), col(schema::USER_ID)])
        .unique(None, UniqueKeepStrategy::Any)
}

impl Presence {
    /// Adds users of a day.
    pub fn add(&mut self, day: Day, users: &RoaringBitmap) {
        *self.days.entry(day).or_default() |= users;
    }

    /// Adds what [`presence`] gave.
    ///
    /// # Errors
    /// If the frame lacks a column.
    pub fn read(&mut self, frame: &DataFrame) -> Result<()> {
        let days = frame.column(DAY)?.i32()?;
        let users = frame.column(schema::USER_ID)?.u32()?;
        let mut lists: BTreeMap<Day, Vec<u32>> = BTreeMap::new();
        for (day, user) in days.iter().zip(users.iter()) {
            if let (Some(day), Some(user)) = (day, user) {
                lists.entry(day).or_default().push(user);
            }
        }
        for (day, users) in lists {
            self.add(day, &crate::daily::set(users));
        }
        Ok(())
    }

    /// Leaves these users only.
    pub fn keep(&mut self, users: &RoaringBitmap) {
        for of_day in self.days.values_mut() {
            *of_day &= users;
        }
    }

    /// The days before `day`, taken out.
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

    /// All users.
    pub fn users(&self) -> RoaringBitmap {
        self.days.values().union()
    }
}
