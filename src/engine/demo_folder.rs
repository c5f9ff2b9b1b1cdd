//! A made-up history in a folder of its own, beside the real one and never mixed with it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use super::Engine;
use crate::config::StoreConfig;
use crate::demo::Demo;
use crate::error::{Error, Result};
use crate::store::files;

/// The folder's name in the data folder.
const FOLDER: &str = "demo";
/// Enough for every view to have something to show, and made in a second or two.
const EVENTS: u64 = 200_000;
const DAYS: u32 = 120;
const USERS: u32 = 3_000;
const FEATURES: u32 = 40;
const SEED: u64 = 42;

/// The demo's folder, opened when it is first asked for.
pub struct DemoFolder {
    config: StoreConfig,
    engine: Mutex<Option<Arc<Engine>>>,
}

/// What is in the demo's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DemoAnswer {
    /// Always true.
    pub ok: bool,
    /// Events in it.
    pub events: u64,
    /// The first day.
    pub first_day: Option<NaiveDate>,
    /// Whether it was made now, and not before.
    pub made: bool,
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

    /// The engine of the demo, if there is one.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub fn open(&self, now: DateTime<Utc>) -> Result<Option<Arc<Engine>>> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if engine.is_none() && self.is_there() {
            *engine = Some(self.start(now)?);
        }
        Ok(engine.clone())
    }

    /// Fills the folder, if it holds nothing yet, with a history that ends with the day before `now`.
    ///
    /// # Errors
    /// If the folder cannot be opened or written.
    pub fn fill(&self, now: DateTime<Utc>) -> Result<DemoAnswer> {
        // One at a time: whoever asks meanwhile waits for the history.
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
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
            };
            let filled = demo.fill_demo(history, |_| {});
            if let Err(error) = filled.and_then(|_| demo.seal(now)) {
                // A part of it would pass for the history.
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
