//! The options of a window, which several commands have.

use chrono::NaiveDate;
use clap::Args;

use crate::window::{NamedPeriod, WindowRequest, parse_day, parse_period};

/// The options of a window.
#[derive(Debug, Args)]
pub struct WindowArgs {
    /// Length of the window in days, 1 to 365 [default: 30]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub days: Option<i64>,
    /// Last day of the window, YYYY-MM-DD [default: today]
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    pub end: Option<NaiveDate>,
    /// First day of the window, YYYY-MM-DD, instead of --days
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    pub from: Option<NaiveDate>,
    /// Last day of the window, YYYY-MM-DD, with --from [default: today]
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    pub to: Option<NaiveDate>,
    /// Calendar period, such as `last_month`, instead of the above
    #[arg(long, value_name = "NAME", value_parser = parse_period)]
    pub period: Option<NamedPeriod>,
    /// Reporting time zone, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub tz: Option<String>,
}

impl From<WindowArgs> for WindowRequest {
    fn from(window: WindowArgs) -> Self {
        Self {
            days: window.days,
            end: window.end,
            from: window.from,
            to: window.to,
            period: window.period,
            tz: window.tz,
        }
    }
}
