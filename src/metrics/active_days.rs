//! Active users by day, from which active users, lifecycle, stickiness and retention follow.
//!
//! Users are codes of the store's dictionary; anonymous events have none.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::NaiveDate;
use chrono_tz::Tz;
use polars::prelude::*;
use roaring::{MultiOps, RoaringBitmap};

use super::day;
use super::filter::Filter;
use super::source::{Columns, Scan, Source};
use crate::daily::Day;
use crate::error::Result;
use crate::schema;
use crate::window::Period;

const DAY: &str = "day";

/// The users of each day.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActiveDays {
    days: BTreeMap<Day, RoaringBitmap>,
}

/// A row for each day of the zone and user with an event.
fn plan(events: LazyFrame, tz: Tz) -> LazyFrame {
    events
        .filter(col(schema::USER_ID).is_not_null())
        .select([day(tz).alias(DAY), col(schema::USER_ID)])
        .unique(None, UniqueKeepStrategy::Any)
}

impl ActiveDays {
    /// Reads events: all users of a range of days with an event that meets the query's filter and
    /// `also`.
    ///
    /// # Errors
    /// As [`Source::for_each_batch`].
    pub fn scan(source: &dyn Source, days: Range<Day>, also: &Filter) -> Result<Self> {
        let tz = source.window().tz();
        let features = Filter::only_features([&source.filter().and(also)].into_iter());
        let scan = Scan {
            days,
            also: also.clone(),
            columns: features
                .as_deref()
                .map_or(Columns::Counted, Columns::Occurrences),
        };
        let mut found = Self::default();
        source.for_each_batch(&scan, &|events| plan(events, tz), &mut |frame| {
            found.read(frame)
        })?;
        Ok(found)
    }

    /// Adds users of a day.
    pub fn add(&mut self, day: Day, users: &RoaringBitmap) {
        *self.days.entry(day).or_default() |= users;
    }

    fn read(&mut self, frame: &DataFrame) -> Result<()> {
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

    /// All users.
    pub fn users(&self) -> RoaringBitmap {
        self.days.values().union()
    }
}
