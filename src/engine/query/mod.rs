//! Queries: the source of a metric over the store, and the response around its result.

mod cancel;
mod source;
mod states;
mod user_union;

use chrono::{DateTime, Utc};
use roaring::RoaringBitmap;
use serde_json::{Value, json};

pub use cancel::Cancel;

pub(super) use source::StoreSource;
pub(super) use states::AggregateFilter;

use super::Engine;
use crate::columns::ANONYMOUS;
use crate::error::Result;
use crate::metrics::cohort::Cohort;
use crate::metrics::query::{CohortCondition, Query, QueryAnswer};
use crate::monitoring::QuerySource;
use crate::window::utc_string;

impl Engine {
    /// Runs a query.
    ///
    /// # Errors
    /// If the query is wrong, stored data that it needs is damaged, or it is cancelled.
    pub fn query(&self, query: &Query, now: DateTime<Utc>, cancel: &Cancel) -> Result<QueryAnswer> {
        self.counted(query.metric.name(), || match query.window.resolve(now) {
            Ok(window) => {
                let mut source = StoreSource::new(self, window, cancel);
                let answer = self.answer(query, &mut source, now);
                (source.read(), answer)
            }
            Err(error) => (QuerySource::States, Err(error)),
        })
    }

    /// The response to a query from its source, without counting it.
    ///
    /// # Errors
    /// As [`Engine::query`].
    pub(super) fn answer(
        &self,
        query: &Query,
        source: &mut StoreSource<'_>,
        now: DateTime<Utc>,
    ) -> Result<QueryAnswer> {
        let own_windows = self.limit(query, source, now)?;
        let mut answer = query.metric.run(source, now)?;
        if let Some(history_from) = source.history_from() {
            answer = answer.with_note("history_from", json!(history_from));
        }
        if let Some(visitors) = source.visitors(query.metric.days_before())? {
            answer = answer.with_note("visitors", json!(visitors));
        }
        if !own_windows.is_empty() {
            answer = answer.with_note("cohort_windows", own_windows.into());
        }
        Ok(QueryAnswer {
            ok: true,
            ts: utc_string(now),
            metric: query.metric.name(),
            window: source.window.describe(now),
            covered_from: source.covered_from(query.metric.days_before()),
            notes: answer.notes,
            rows: answer.rows,
        })
    }

    /// Limits a source to the cohorts and the filter of a query. Returns the windows that cohorts
    /// have of their own.
    pub(super) fn limit(
        &self,
        query: &Query,
        source: &mut StoreSource<'_>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Value>> {
        let mut own_windows = Vec::new();
        if !query.cohorts.is_empty() {
            // Before the filter: it is one of events, and cohorts are of users.
            let users = self.users_of_cohorts(&query.cohorts, source, now, &mut own_windows)?;
            source.cohort = Some(users);
        }
        source.filter = query.filter.clone();
        Ok(own_windows)
    }

    /// The users who are in some cohorts and not in others, of a source without filter. Adds the
    /// windows that cohorts have of their own.
    fn users_of_cohorts(
        &self,
        conditions: &[CohortCondition],
        source: &StoreSource<'_>,
        now: DateTime<Utc>,
        own_windows: &mut Vec<Value>,
    ) -> Result<RoaringBitmap> {
        let cohorts = self.cohorts()?;
        let mut found: Option<RoaringBitmap> = None;
        let mut excluded = RoaringBitmap::new();
        for CohortCondition { name, is_in } in conditions {
            let users = self.cohort_users(cohorts.find(name)?, source, now, own_windows)?;
            match found.as_mut() {
                _ if !is_in => excluded |= users,
                Some(found) => *found &= users,
                None => found = Some(users),
            }
        }
        let mut found = found.unwrap_or_else(|| {
            let mut all = RoaringBitmap::new();
            all.insert_range(0..self.store.names().users.len() as u32);
            all.insert(ANONYMOUS);
            all
        });
        found -= excluded;
        Ok(found)
    }

    /// The users of a cohort in its window, or else in that of a source without filter.
    fn cohort_users(
        &self,
        cohort: &Cohort,
        source: &StoreSource<'_>,
        now: DateTime<Utc>,
        own_windows: &mut Vec<Value>,
    ) -> Result<RoaringBitmap> {
        if let Some(users) = &cohort.users {
            let ids = users.iter().flat_map(|user| self.store.stored_ids(user));
            let users = &self.store.names().users;
            let mut codes = ids.filter_map(|id| users.find(&id)).collect();
            if let Some(canonical) = self.store.canonical() {
                canonical.apply(&mut codes);
            }
            return Ok(codes);
        }
        let Some(window) = &cohort.window else {
            return cohort.users_of(source);
        };
        let window = window.request(source.window.tz().name()).resolve(now)?;
        let own = StoreSource::new(self, window, source.cancel);
        let users = cohort.users_of(&own)?;
        let window = own.window.describe(now);
        own_windows.push(json!({
            "cohort": cohort.name,
            "from": window.from,
            "to": window.to,
            "covered_from": own.covered_from(0),
        }));
        Ok(users)
    }
}
