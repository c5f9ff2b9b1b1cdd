//! `GET /metrics`, for Prometheus.

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::accept::preferences;
use super::described::{Errors, KeyErrors};
use super::extract::Monitored;
use super::json_response::NO_STORE;
use crate::monitoring::PageFormat;

/// The media type by which a client asks for `OpenMetrics`.
const OPEN_METRICS: &str = "application/openmetrics-text";
/// The version of it that is served.
const OPEN_METRICS_VERSION: &str = "1.0.0";
/// Media ranges that include the text format, the most specific one first.
const TEXT_RANGES: [&str; 3] = ["text/plain", "text/*", "*/*"];

/// The numbers of the process, as Prometheus reads them.
///
/// A client on the same machine needs no key.
// No file is read and no lock is taken that ingest waits for, so that this needs no permit.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "operation",
    responses(
        (
            status = 200,
            description = "The text format of Prometheus, or OpenMetrics.",
            content((String = "text/plain"), (String = "application/openmetrics-text"))
        ),
        Errors, KeyErrors
    ),
    security((), ("dash_key" = []), ("bearer" = []))
)]
pub async fn metrics(monitored: Monitored, headers: HeaderMap) -> Response {
    let format = accepted(&headers);
    let content_type = [(header::CONTENT_TYPE, format.media_type())];
    (NO_STORE, content_type, monitored.page(format)).into_response()
}

/// The format that a client prefers: the text format unless `OpenMetrics` is named with the same
/// or a higher weight. Whatever else a client wants, it gets the text format.
fn accepted(headers: &HeaderMap) -> PageFormat {
    let ranges = preferences(headers, &header::ACCEPT);
    let is_served = |version: Option<&str>| version.is_none_or(|one| one == OPEN_METRICS_VERSION);
    let open_metrics = ranges
        .iter()
        .filter(|range| range.is(OPEN_METRICS) && is_served(range.parameter("version")))
        .map(|range| range.weight)
        .max()
        .unwrap_or(0);
    let text = TEXT_RANGES.iter().find_map(|name| {
        let ranges = ranges.iter().filter(|range| range.is(name));
        ranges.map(|range| range.weight).max()
    });
    if open_metrics > 0 && open_metrics >= text.unwrap_or(0) {
        PageFormat::OpenMetrics
    } else {
        PageFormat::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_served_to_those_who_prefer_it() {
        for (accept, format) in [
            ("", PageFormat::Text),
            ("*/*", PageFormat::Text),
            ("text/plain", PageFormat::Text),
            ("application/openmetrics-text", PageFormat::OpenMetrics),
            ("application/openmetrics-text;q=0", PageFormat::Text),
            (
                "application/openmetrics-text; version=0.0.1",
                PageFormat::Text,
            ),
            (
                "application/openmetrics-text;q=0.2,text/plain;q=0.3",
                PageFormat::Text,
            ),
            ("application/json", PageFormat::Text),
            // Prometheus 2.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                PageFormat::OpenMetrics,
            ),
            // Prometheus 3.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                PageFormat::OpenMetrics,
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header value"));
            assert_eq!(accepted(&headers), format, "{accept}");
        }
    }
}
