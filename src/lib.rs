//! `EchoPilot` Analytics: product analytics in one binary. Events arrive over HTTP and are on disk
//! before they are acknowledged; active users, feature usage, funnels, retention, paths and
//! experiments are computed exactly over any window of up to a year.
//!
//! # Modules
//!
//! Dependencies point one way, from left to right; [`store`] and [`metrics`] do not know each
//! other.
//!
//! ```text
//! main → cli → server → http, schedule → spark → engine
//!      → alerts → config, reports
//!      → rollup, cohorts, backup, doctor, export, import, demo, sql → placement → plan
//!      → metrics | store → columns, links → daily, dictionary → event, parquet, schema
//!      → monitoring → window, bloom, digest, checksum, leb128, progress, error
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`engine`] | the operations of HTTP, command line and scheduler |
//! | [`metrics`] | the metrics, which read through `Source`; [`engine`] implements it |
//! | [`sql`] | queries as SQL of other engines, and their results from its rows |
//! | [`spark`] | queries on an Apache Spark cluster, through Spark Connect |
//! | [`store`] | the data folder: event log, segments, manifest, recovery, all jobs |
//! | [`daily`] | daily states: mergeable counts and user sets of one day of UTC or of a zone |
//! | [`columns`] | the events of a day as integers, which queries read |
//! | [`dictionary`] | dictionaries of users, features and event types |
//! | [`links`] | links between the ids of a user: which ids count as one user |
//! | [`event`] | parsing and validation of events, and their lines in the event log |
//! | [`sdk`] | events of the clients of other products, mapped to our own |
//! | [`rollup`] | the daily rollup: days with a missing or outdated rollup, the rollup log |
//! | [`cohorts`] | named groups of users |
//! | [`reports`] | saved reports and boards, share links, annotations |
//! | [`plan`] | the tracking plan: declared event types, schemas of metadata, paths |
//! | [`placement`] | where a valid event goes, as the tracking plan says |
//! | [`alerts`] | alerts and digests that users define, their state and their messages |
//! | [`export`] | query results in every format, event streams, the lake for a warehouse |
//! | [`http`] | the HTTP interface: each handler decodes, calls the engine once, and encodes |
//! | [`cli`], [`server`], [`schedule`] | commands; start and stop of the server; periodic jobs |
//! | [`monitoring`] | counters, histograms and gauges for operators; the page of Prometheus |
//! | [`backup`] | backups of a data folder, also while a server changes it, and their restore |
//! | [`doctor`] | checks of the folder and the machine before something fails |
//! | [`import`], [`demo`] | import of existing events; synthetic histories |
//! | [`inflate`] | decompression of streams, detected by their first bytes |
//! | [`parquet`] | the settings of all Parquet files |
//! | [`window`], [`zones`], [`schema`] | days and windows; reporting zones; columns of the lake |
//! | [`digest`], [`bloom`], [`shards`] | digests of ids; filters and tables of them |
//! | [`checksum`], [`leb128`] | CRC-32C; variable-length integers |
//! | [`config`], [`error`], [`error_code`] | settings; the error type and its codes |
//! | [`backoff`] | pauses between retries |
//! | [`probe`] | requests of commands to a server on the same machine |
//! | [`progress`] | progress of long work, and its cancellation |
//! | [`visitors`] | ids of visitors without a user, which are new each day |
//!
//! # Invariants
//!
//! 1. An acknowledged event is on disk: the response follows `fdatasync`.
//! 2. An event is visible to queries exactly once: in the tail (in memory, from the log) or in a
//!    segment (Parquet). A seal changes both in one step under one lock ([`store`]).
//! 3. A query sees every event that was acknowledged before it started.
//! 4. The event log is authoritative until it is sealed, then the segments are. Memory (the tail,
//!    ids of its events) is rebuilt at each start. Daily states follow from the segments, byte for
//!    byte, and outlive them; columns follow from one segment, files of event ids from those of the
//!    last 7 days, and both can be deleted at any time.
//! 5. A failed sync stops all writing until a restart; a full disk rejects complete requests, and
//!    writing resumes by itself when there is space.
//! 6. Segments and daily states are immutable; the manifest alone names the live ones, and its
//!    replacement is the commit. Another program that lists the lake reads no event twice, and the
//!    files of a day in log order.
//! 7. No number comes from damaged bytes: lines and files have checksums, which are verified
//!    before use.
//! 8. The code of a user in the dictionary never changes while the store is open ([`store`]).
//! 9. The clock alone never deletes data, and `received_at` never decreases.
//! 10. All input of untrusted clients is bounded: unread responses, connections, bytes and events
//!     of one client, new names per day. Beyond a limit no acknowledged event is lost.
//! 11. Only files that the program created, by name and place, are changed or removed.
//! 12. Client addresses are neither stored nor traced; traces contain no user data.
//!
//! # Where to start reading
//!
//! [`engine`], then one metric in its three forms (`src/metrics/x.rs`, `queries/x.sql`,
//! `tests/golden/x.csv`), then [`event`], then [`store`]: under an hour. The doc comment of a
//! metric is its definition.

pub mod alerts;
pub mod backoff;
pub mod backup;
pub mod bloom;
pub mod checksum;
pub mod cli;
pub mod cohorts;
pub mod columns;
pub mod config;
pub mod daily;
pub mod demo;
pub mod dictionary;
pub mod digest;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod error_code;
pub mod event;
pub mod export;
pub mod http;
pub mod import;
pub mod inflate;
pub mod leb128;
pub mod links;
pub mod metrics;
pub mod monitoring;
pub mod parquet;
pub mod placement;
pub mod plan;
pub mod probe;
pub mod progress;
pub mod reports;
pub mod rollup;
pub mod schedule;
pub mod schema;
pub mod sdk;
pub mod server;
pub mod shards;
pub mod spark;
pub mod sql;
pub mod store;
pub mod visitors;
pub mod window;
pub mod zones;
