//! Queries: the source of a metric over the store, and the response around its result.

mod cancel;
mod source;
mod states;

use chrono::{DateTime, SecondsFormat, Utc};
use roaring::RoaringBitmap;
use serde_json::json;

pub use cancel::Cancel;

pub(super) use source::StoreSource;
pub(super) use states::AggregateFilter;

use super::Engine;
use crate::error::Result;
use crate::metrics::cohort::Cohort;
use crate::metrics::query::{Query, QueryAnswer};
use crate::monitoring::QuerySource;

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
        if let Some(name) = &query.cohort {
            // Before the filter: it is one of events, and a cohort is one of users.
            let users = self.cohort_users(self.cohorts()?.find(name)?, source)?;
            source.cohort = Some(users);
        }
        source.filter = query.filter.clone();
        let mut answer = query.metric.run(source, now)?;
        if let Some(history_from) = source.history_from() {
            answer = answer.with_note("history_from", json!(history_from));
        }
        Ok(QueryAnswer {
            ok: true,
            ts: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            metric: query.metric.name(),
            window: source.window.describe(now),
            covered_from: source.covered_from(query.metric.days_before()),
            notes: answer.notes,
            rows: answer.rows,
        })
    }

    /// The users of a cohort in the window of a source without filter.
    fn cohort_users(&self, cohort: &Cohort, source: &StoreSource<'_>) -> Result<RoaringBitmap> {
        if let Some(users) = &cohort.users {
            let ids = users.iter().flat_map(|user| self.store.stored_ids(user));
            let users = &self.store.names().users;
            return Ok(ids.filter_map(|id| users.find(&id)).collect());
        }
        match &cohort.did {
            Some(did) => did.users(source),
            None => Ok(RoaringBitmap::new()),
        }
    }
}
