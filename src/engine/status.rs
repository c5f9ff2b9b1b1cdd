//! The status of the engine, for a person on call.

use std::time::SystemTime;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use parking_lot::Mutex;

use super::api::{RollupStatus, Waiting};
use super::{Engine, LimitStatus, StatusAnswer, ZoneStatus};
use crate::daily::Day;
use crate::error::Result;
use crate::rollup::{self, RollupLog};
use crate::window::utc_string;

/// The last day in the rollup log, read again only when the file has changed.
#[derive(Default)]
pub(super) struct LastRollup(Mutex<Option<(FileVersion, Option<NaiveDate>)>>);

type FileVersion = Option<(u64, SystemTime)>;

impl Engine {
    /// The status of the engine.
    ///
    /// # Errors
    /// If the rollup log cannot be read.
    pub fn status(&self, now: DateTime<Utc>) -> Result<StatusAnswer> {
        let store = self.store();
        let size = store.size();
        let lag = store.seal_lag();
        let since = lag.and_then(|lag| Some(now - TimeDelta::from_std(lag).ok()?));
        let expiry = store.expiry();
        Ok(StatusAnswer {
            ok: true,
            ts: utc_string(now),
            version: env!("CARGO_PKG_VERSION"),
            opened_at: utc_string(self.opened_at),
            writable: self.check_ready(now).is_ok(),
            accepted: store.accepted(),
            waiting: Waiting {
                events: size.log_events,
                since: since.map(utc_string),
                seconds: lag.map_or(0, |lag| lag.as_secs()),
            },
            store: size,
            first_day: store.first_day(),
            last_day: store.last_day(),
            raw_from: expiry.raw_from,
            states_from: expiry.states_from,
            looked_on: expiry.looked_on,
            zones: self.zone_status(),
            rollup: RollupStatus {
                last_day: self.last_rollup_day()?,
                due_day: rollup::last_due_day(now, self.config.rollup_at),
            },
            watchers: store.subscribers(),
            limits: self.limits(),
            wrong_keys: 0,
            publication: self.publication_status(),
            reads: self.read_status(),
            quarantine: self.quarantine_status(),
            rejections: self.rejections(),
            alerts: self.alerts(),
        })
    }

    /// The reporting zones, in the order of the setting.
    fn zone_status(&self) -> Vec<ZoneStatus> {
        let status = |tz: Tz| ZoneStatus {
            zone: tz.name(),
            complete: self.store.has_states(tz, &(Day::MIN..Day::MAX)),
            covered_from: self.store.first_complete_day(tz),
        };
        self.config
            .zones
            .listed()
            .iter()
            .copied()
            .map(status)
            .collect()
    }

    /// The limits of names, where each event beyond one counts as reaching it, and that of a query.
    pub(super) fn limits(&self) -> Vec<LimitStatus> {
        let used = self.store().name_use();
        let limits = self.config.names;
        let limit = |name, limit: u32, used, reached| LimitStatus {
            name,
            limit: limit.into(),
            used,
            reached,
        };
        let memory = &self.query_memory;
        vec![
            limit(
                "query_mib",
                self.config.limit_query_mib,
                memory.held() >> 20,
                memory.reached(),
            ),
            limit(
                "features_a_day",
                limits.features,
                used.features,
                used.rest.features,
            ),
            limit(
                "new_users_a_day",
                limits.new_users,
                used.new_users.into(),
                used.rest.users,
            ),
            limit(
                "metadata_keys_a_day",
                limits.metadata_keys,
                used.metadata_keys,
                used.rest.metadata_keys,
            ),
        ]
    }

    pub(super) fn last_rollup_day(&self) -> Result<Option<NaiveDate>> {
        let folder = self.store().folder();
        let file = folder.path().join(rollup::FILE_NAME);
        let version = std::fs::metadata(file)
            .ok()
            .and_then(|file| Some((file.len(), file.modified().ok()?)));
        let mut last = self.last_rollup.0.lock();
        if let Some((known, day)) = *last
            && known == version
        {
            return Ok(day);
        }
        let day = RollupLog::load(folder)?.last_day();
        *last = Some((version, day));
        Ok(day)
    }
}
