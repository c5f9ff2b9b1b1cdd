//! The page that Prometheus reads, in its text format 0.0.4 or as `OpenMetrics`.
//!
//! Names follow the guide of Prometheus: base units, `_total` for counters, which
//! `prometheus-client` adds. All help ends with a period and has no quotes or backslashes, which
//! the two formats escape differently.

use std::fmt::{Error as FmtError, Result as FmtResult};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
    prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::{Histogram, Observed};
use super::labels::Label;
use super::pairs::Pairs;
use super::{Codes, Gauges, Limit, Monitoring, Process, Resources, WINDOWS, alerts};

/// Labels of a value.
type Labels<'a> = &'a [(&'static str, &'static str)];

/// A format of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageFormat {
    /// The text format of Prometheus, version 0.0.4.
    Text,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
}

impl PageFormat {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The page, with the limits of the public interface and the requests with a wrong key.
pub fn page(
    monitoring: &Arc<Monitoring>,
    limits: Vec<Limit>,
    wrong_keys: u64,
    format: PageFormat,
) -> String {
    let gauges = monitoring.gauges();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page {
        monitoring: monitoring.clone(),
        resources: monitoring.resources(),
        limits: limits.into_iter().chain(gauges.limits.clone()).collect(),
        wrong_keys,
        gauges,
    }));
    let mut out = String::new();
    // Writing to memory fails for a counter that does not fit into 64 bits, which none is.
    let written = match format {
        PageFormat::Text => prometheus_text::encode(&mut out, &registry),
        PageFormat::OpenMetrics => text::encode(&mut out, &registry),
    };
    debug_assert!(written.is_ok());
    out
}

/// Everything on the page.
#[derive(Debug)]
struct Page {
    monitoring: Arc<Monitoring>,
    gauges: Arc<Gauges>,
    resources: Arc<Resources>,
    limits: Vec<Limit>,
    wrong_keys: u64,
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> FmtResult {
        let mut out = Out(encoder);
        out.build()?;
        self.ingest(&mut out)?;
        self.queries(&mut out)?;
        self.jobs(&mut out)?;
        self.store(&mut out)?;
        self.limits(&mut out)?;
        self.day(&mut out)?;
        self.alerts(&mut out)?;
        out.process(&self.resources.process, self.gauges.opened_at)
    }
}

impl Page {
    fn ingest(&self, out: &mut Out<'_>) -> FmtResult {
        let all = &self.monitoring;
        out.pairs(
            "echopilot_ingest_batches",
            "Requests with events, by outcome.",
            &all.batches,
        )?;
        out.pairs(
            "echopilot_ingest_events",
            "Events of batches that were stored or rejected event by event, by outcome.",
            &all.events,
        )?;
        out.counter(
            "echopilot_visitor_events",
            "Events without a user that got the id of a daily visitor.",
            all.visitor_events.load(Ordering::Relaxed),
        )?;
        out.codes(
            "echopilot_ingest_rejections",
            "Rejected events, by code.",
            "code",
            &all.rejections,
        )?;
        out.codes(
            "echopilot_plan_warnings",
            "Stored events that do not follow the tracking plan, by code.",
            "code",
            &all.warned,
        )?;
        out.codes(
            "echopilot_plan_quarantined",
            "Events that the tracking plan quarantined, by code.",
            "code",
            &all.quarantined,
        )?;
        out.codes(
            "echopilot_http_errors",
            "Error responses of all routes, by code.",
            "code",
            &all.errors,
        )?;
        out.histogram(
            "echopilot_ingest_duration_seconds",
            "Time from the last byte of a batch to its response.",
            &all.ingest,
        )?;
        out.histogram(
            "echopilot_ingest_body_bytes",
            "Length of the body of a batch on the wire.",
            &all.body,
        )?;
        out.histogram(
            "echopilot_clock_skew_seconds",
            "Difference between the clock of a client that sends sent_at and ours.",
            &all.skew,
        )?;
        out.histogram(
            "echopilot_sync_duration_seconds",
            "Time to write a group of events to the event log and make it durable.",
            &all.sync,
        )
    }

    fn queries(&self, out: &mut Out<'_>) -> FmtResult {
        let all = &self.monitoring;
        out.pairs("echopilot_queries", "Queries, by outcome.", &all.queries)?;
        let mut times = out.family(
            "echopilot_query_duration_seconds",
            "Time of queries that had a result, by the data that they read.",
            MetricType::Histogram,
        )?;
        for (labels, histogram) in all.query_times.iter() {
            let observed = histogram.observed();
            // Most pairs never occur, and each has twenty lines.
            if observed.count > 0 {
                write_histogram(&mut times, &labels, &observed)?;
            }
        }
        Ok(())
    }

    fn jobs(&self, out: &mut Out<'_>) -> FmtResult {
        let all = &self.monitoring;
        out.histogram(
            "echopilot_rollup_duration_seconds",
            "Time of rollups that wrote lines.",
            &all.rollup,
        )?;
        out.gauge(
            "echopilot_rollup_last_duration_seconds",
            "Time of the last rollup that wrote lines; 0 before the first since the start.",
            all.last_rollup_seconds().unwrap_or(0.0),
        )?;
        out.gauge(
            "echopilot_rollup_due_since_timestamp_seconds",
            "Time since which a rollup is due; 0 if none is.",
            self.resources.rollup_due_since,
        )?;
        out.histogram(
            "echopilot_seal_duration_seconds",
            "Time of seals, which move events from the log to segments.",
            &all.seal,
        )?;
        out.histogram(
            "echopilot_erasure_duration_seconds",
            "Time of erasures of users.",
            &all.erasure,
        )?;
        out.histogram(
            "echopilot_export_duration_seconds",
            "Time of exports of events, with the time that their clients took to read them.",
            &all.export,
        )?;
        out.codes(
            "echopilot_job_failures",
            "Failures of background jobs.",
            // Prometheus itself adds a label `job`.
            "task",
            &all.job_failures,
        )
    }

    fn store(&self, out: &mut Out<'_>) -> FmtResult {
        let Self {
            gauges, resources, ..
        } = self;
        let is_writable = u64::from(gauges.is_writable);
        for (name, help, value) in [
            (
                "echopilot_writable",
                "1 while events are accepted, else 0.",
                is_writable,
            ),
            (
                "echopilot_unsealed_events",
                "Events that wait to be sealed.",
                gauges.unsealed_events,
            ),
            (
                "echopilot_log_bytes",
                "Length of the event logs that are not sealed.",
                gauges.log_bytes,
            ),
            (
                "echopilot_sealed_events",
                "Events in segments.",
                gauges.sealed_events,
            ),
            ("echopilot_segments", "Live segments.", gauges.segments),
            (
                "echopilot_segment_bytes",
                "Length of the live segments.",
                gauges.segment_bytes,
            ),
            (
                "echopilot_damaged_segments",
                "Live segments that are known to be damaged.",
                gauges.damaged_segments,
            ),
            ("echopilot_states", "Live daily states.", gauges.states),
            (
                "echopilot_state_bytes",
                "Length of the live daily states.",
                gauges.state_bytes,
            ),
            (
                "echopilot_watchers",
                "Subscribers of live events.",
                gauges.watchers,
            ),
        ] {
            out.gauge(name, help, value)?;
        }
        out.gauge(
            "echopilot_seal_lag_seconds",
            "Age of the oldest event that waits to be sealed; 0 if none waits.",
            gauges.seal_lag,
        )?;
        out.gauge(
            "echopilot_last_event_timestamp_seconds",
            "Time of receipt of the newest event; 0 without one.",
            gauges.last_event,
        )?;
        out.gauge(
            "echopilot_sample_timestamp_seconds",
            "Time at which the gauges of the store were sampled.",
            gauges.at,
        )?;
        out.gauges(
            "echopilot_links",
            "What identity calls say of ids of users, by outcome: links, and rejected statements.",
            "outcome",
            [
                ("linked", gauges.links),
                ("rejected", gauges.rejected_links),
            ],
        )?;
        let tables = gauges.tables.unwrap_or_default();
        for (name, help, value) in [
            (
                "echopilot_table_version",
                "Version of the table of events that is published or read; 0 without one.",
                tables.version.unwrap_or(0),
            ),
            (
                "echopilot_table_lag_seconds",
                "Time for which the published tables have not had what is sealed; 0 if they have it.",
                tables.lag,
            ),
            (
                "echopilot_table_failures",
                "Failures of the publication since it last succeeded.",
                tables.failures.into(),
            ),
        ] {
            out.gauge(name, help, value)?;
        }
        if let Some(free) = resources.disk_free {
            out.gauge(
                "echopilot_disk_free_bytes",
                "Free space on the disk of the data folder.",
                free,
            )?;
        }
        let memory = resources.memory;
        out.gauges(
            "echopilot_memory_bytes",
            "Estimate of the memory of parts of the store.",
            "part",
            [
                ("tail", memory.tail),
                ("ids", memory.event_ids),
                ("dictionary", memory.dictionary),
                ("states", memory.states),
            ],
        )
    }

    fn limits(&self, out: &mut Out<'_>) -> FmtResult {
        let limits = || self.limits.iter();
        out.gauges(
            "echopilot_limit",
            "Limits, as the status lists them; 0 means unlimited.",
            "limit",
            limits().map(|limit| (limit.name, limit.limit)),
        )?;
        out.gauges(
            "echopilot_limit_used",
            "Use of the limits; of a limit per client that of the client with the most.",
            "limit",
            limits().map(|limit| (limit.name, limit.used)),
        )?;
        let mut reached = out.family(
            "echopilot_limit_reached",
            "Number of times that a limit was reached.",
            MetricType::Counter,
        )?;
        for limit in limits() {
            write_counter(&mut reached, &[("limit", limit.name)], limit.reached)?;
        }
        out.counter(
            "echopilot_wrong_keys",
            "Requests with a wrong dashboard key.",
            self.wrong_keys,
        )
    }

    fn alerts(&self, out: &mut Out<'_>) -> FmtResult {
        let firing = self.monitoring.firing.iter();
        let firing = firing.map(|fires| u64::from(fires.load(Ordering::Relaxed)));
        out.gauges(
            "echopilot_alert_firing",
            "1 while the server itself finds that the condition of an alert holds, else 0.",
            "alert",
            alerts::names().zip(firing),
        )
    }

    fn day(&self, out: &mut Out<'_>) -> FmtResult {
        let Some(day) = &self.resources.day else {
            return Ok(());
        };
        let since = day.day.and_time(chrono::NaiveTime::MIN).and_utc();
        out.gauge(
            "echopilot_closed_day_timestamp_seconds",
            "Start of the last closed day of UTC, which the next two are about.",
            since.timestamp(),
        )?;
        out.gauges(
            "echopilot_active_users",
            "Distinct users of the last closed day of UTC, and of the 7 and 30 days that end with it.",
            "window",
            WINDOWS.into_iter().zip(day.active_users),
        )?;
        let events = day.events.iter();
        out.gauges(
            "echopilot_events_of_day",
            "Events of the last closed day of UTC.",
            "event_type",
            events.map(|(event_type, events)| (event_type.as_str(), *events)),
        )
    }
}

/// Writes families of metrics.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        of: MetricType,
    ) -> Result<MetricEncoder<'s>, FmtError> {
        self.0.encode_descriptor(name, help, None, of)
    }

    fn build(&mut self) -> FmtResult {
        let mut build = self.family(
            "echopilot_build",
            "Version of the program.",
            MetricType::Info,
        )?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> FmtResult {
        let mut counter = self.family(name, help, MetricType::Counter)?;
        counter.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> FmtResult {
        self.family(name, help, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    fn gauges<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> FmtResult {
        let mut gauges = self.family(name, help, MetricType::Gauge)?;
        for (value_of_label, value) in values {
            gauges
                .encode_family(&[(label, value_of_label)])?
                .encode_gauge(&value)?;
        }
        Ok(())
    }

    fn codes(&mut self, name: &str, help: &str, label: &'static str, codes: &Codes) -> FmtResult {
        let mut counters = self.family(name, help, MetricType::Counter)?;
        for (code, count) in codes.iter() {
            write_counter(&mut counters, &[(label, code)], count)?;
        }
        Ok(())
    }

    fn pairs<A: Label, B: Label>(
        &mut self,
        name: &str,
        help: &str,
        pairs: &Pairs<A, B, AtomicU64>,
    ) -> FmtResult {
        let mut counters = self.family(name, help, MetricType::Counter)?;
        for (labels, counter) in pairs.iter() {
            write_counter(&mut counters, &labels, counter.load(Ordering::Relaxed))?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> FmtResult {
        let mut out = self.family(name, help, MetricType::Histogram)?;
        write_histogram(&mut out, &[], &histogram.observed())
    }

    /// The process, under the names that all clients of Prometheus use.
    fn process(&mut self, process: &Process, opened_at: f64) -> FmtResult {
        if let Some(seconds) = process.cpu_seconds {
            self.counter("process_cpu_seconds", "Time on all processors.", seconds)?;
        }
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory.",
                process.resident_bytes,
            ),
            (
                "process_open_fds",
                "Open file descriptors.",
                process.open_descriptors,
            ),
            (
                "process_max_fds",
                "Most file descriptors.",
                process.max_descriptors,
            ),
            ("process_threads", "Threads.", process.threads),
        ] {
            if let Some(value) = value {
                self.gauge(name, help, value)?;
            }
        }
        self.gauge(
            "process_start_time_seconds",
            "Time at which the store was opened.",
            opened_at,
        )
    }
}

fn write_counter(out: &mut MetricEncoder<'_>, labels: Labels<'_>, value: u64) -> FmtResult {
    out.encode_family(&labels)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn write_histogram(
    out: &mut MetricEncoder<'_>,
    labels: Labels<'_>,
    observed: &Observed,
) -> FmtResult {
    let Observed {
        sum,
        count,
        buckets,
    } = observed;
    out.encode_family(&labels)?
        .encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitoring::{BatchOutcome, Family, QueryKind, QuerySource};

    fn pages(limits: &[Limit]) -> [String; 2] {
        let monitoring = Arc::new(Monitoring::default());
        monitoring.count_batch(Family::Native, BatchOutcome::Stored);
        monitoring.errors.count("busy", 2);
        let time = std::time::Duration::from_millis(40);
        monitoring.count_query(QueryKind::USAGE, QuerySource::States, &Ok(()), time);
        [PageFormat::Text, PageFormat::OpenMetrics]
            .map(|format| page(&monitoring, limits.to_vec(), 3, format))
    }

    #[test]
    fn the_text_format_names_counters_with_their_suffix_and_has_no_end_mark() {
        let [page, _] = pages(&[]);
        for line in [
            "# TYPE echopilot_ingest_batches_total counter",
            r#"echopilot_ingest_batches_total{family="native",outcome="stored"} 1"#,
            r#"echopilot_ingest_batches_total{family="native",outcome="failed"} 0"#,
            "# TYPE echopilot_build_info gauge",
            r#"echopilot_http_errors_total{code="busy"} 2"#,
            "echopilot_wrong_keys_total 3",
            r#"echopilot_query_duration_seconds_bucket{metric="usage",source="states",le="0.025"} 0"#,
            r#"echopilot_query_duration_seconds_bucket{metric="usage",source="states",le="0.05"} 1"#,
            r#"echopilot_query_duration_seconds_count{metric="usage",source="states"} 1"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line}:\n{page}");
        }
        assert!(!page.contains("# EOF") && !page.contains("paths\",source"));
        // Every line but comments has a name, labels that are closed, and a number.
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn openmetrics_names_the_family_of_a_counter_and_ends_with_its_mark() {
        let limits = [Limit {
            name: "clients",
            limit: 100_000,
            used: 2,
            reached: 1,
        }];
        let [_, page] = pages(&limits);
        for line in [
            "# TYPE echopilot_ingest_batches counter",
            r#"echopilot_ingest_batches_total{family="native",outcome="stored"} 1"#,
            "# TYPE echopilot_build info",
            r#"echopilot_limit{limit="clients"} 100000"#,
            r#"echopilot_limit_used{limit="clients"} 2"#,
            r#"echopilot_limit_reached_total{limit="clients"} 1"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line}:\n{page}");
        }
        assert!(page.ends_with("\n# EOF\n"));
    }

    /// A scrape must not cost more than 10 ms. This measures the fastest of some, because other
    /// tests run meanwhile, and without optimisation.
    #[test]
    fn a_full_page_takes_milliseconds() {
        let monitoring = Arc::new(Monitoring::default());
        for code in [&*"a".repeat(40), &*"b".repeat(40)] {
            let code: &'static str = Box::leak(code.to_owned().into_boxed_str());
            monitoring.errors.count(code, 1);
        }
        for name in QueryKind::VALUES {
            let kind = QueryKind::named(name).expect("a kind");
            for source in [QuerySource::States, QuerySource::Columns, QuerySource::Lake] {
                monitoring.count_query(kind, source, &Ok(()), std::time::Duration::ZERO);
            }
        }
        let times = (0..20).map(|_| {
            let started = std::time::Instant::now();
            let length = page(&monitoring, Vec::new(), 0, PageFormat::Text).len();
            assert!(length > 20_000, "{length}");
            started.elapsed()
        });
        let fastest = times.min().expect("a time");
        assert!(
            fastest < std::time::Duration::from_millis(10),
            "{fastest:?}"
        );
    }

    #[test]
    fn each_family_has_one_help_with_a_period() {
        for page in pages(&[]) {
            let mut helps: Vec<&str> = page
                .lines()
                .filter_map(|line| line.strip_prefix("# HELP "))
                .collect();
            let count = helps.len();
            for help in &helps {
                assert!(help.ends_with('.') && !help.contains(['"', '\\']), "{help}");
            }
            helps.sort_unstable();
            helps.dedup_by_key(|help| help.split(' ').next());
            assert_eq!(helps.len(), count);
        }
    }
}
