//! A synthetic history in a folder of its own, separate from the real data.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use super::{DemoAnswer, Engine};
use crate::config::StoreConfig;
use crate::demo::Demo;
use crate::error::{Error, Result};
use crate::store::files;

/// The folder's name in the data folder.
const FOLDER: &str = "demo";
/// Enough for every view of the dashboard, and generated in a second or two.
const EVENTS: u64 = 200_000;
const DAYS: u32 = 120;
const USERS: u32 = 3_000;
const FEATURES: u32 = 40;
const SEED: u64 = 42;

/// The demo's folder, opened on first use.
pub struct DemoFolder {
    config: StoreConfig,
    engine: Mutex<Option<Arc<Engine>>>,
}

impl DemoFolder {
    /// The demo's folder of a data folder.
    pub fn of(config: &StoreConfig) -> Self {
        Self {
            config: StoreConfig {
                data_dir: config.data_dir.join(FOLDER),
                ..config.clone()
            },
            engine: Mutex::new(None),
        }
    }

    /// The engine of the demo, if its folder exists.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub fn open(&self, now: DateTime<Utc>) -> Result<Option<Arc<Engine>>> {
        let mut engine = self.engine.lock();
        if engine.is_none() && self.is_there() {
            *engine = Some(self.start(now)?);
        }
        Ok(engine.clone())
    }

    /// Fills the folder, if it is empty, with a history that ends with the day before `now`.
    ///
    /// # Errors
    /// If the folder cannot be opened or written.
    pub fn fill(&self, now: DateTime<Utc>) -> Result<DemoAnswer> {
        // One at a time: other requests wait for the history.
        let mut engine = self.engine.lock();
        let demo = match &*engine {
            Some(demo) => demo.clone(),
            None => self.start(now)?,
        };
        *engine = Some(demo.clone());
        let size = demo.size();
        let is_empty = size.sealed_events == 0 && size.log_events == 0;
        if is_empty {
            let history = Demo {
                events: EVENTS,
                days: DAYS,
                users: USERS,
                features: FEATURES,
                seed: SEED,
                last_day: now.date_naive().pred_opt().unwrap_or_default(),
                plain: false,
            };
            let filled = demo.fill_demo(history, |_| {});
            if let Err(error) = filled.and_then(|_| demo.seal(now)) {
                // A partial history would look like a complete one.
                *engine = None;
                drop(demo);
                files::remove_all(&self.config.data_dir)?;
                return Err(error);
            }
        }
        let size = demo.size();
        Ok(DemoAnswer {
            ok: true,
            events: size.sealed_events + size.log_events as u64,
            first_day: demo.store().first_day(),
            made: is_empty,
        })
    }

    fn is_there(&self) -> bool {
        let log: PathBuf = self.config.data_dir.join(crate::store::EVENT_LOG_FILE);
        log.exists()
    }

    fn start(&self, now: DateTime<Utc>) -> Result<Arc<Engine>> {
        let holder = format!("echopilot serve (process {})", std::process::id());
        match Engine::open(&self.config, &holder, now) {
            Ok(engine) => Ok(Arc::new(engine)),
            Err(Error::Held { .. }) => Err(Error::Busy("another process has the demo's folder")),
            Err(error) => Err(error),
        }
    }
}
