//! EchoPilot Analytics: product analytics in one binary. Events come in over HTTP and are on disk before they are
//! answered; active users, feature usage, funnels, retention, paths and experiments of any window of up to a year come out exactly.
//!
//! # The map
//!
//! Arrows run one way; nothing imports upward, and [`store`] and [`metrics`] do not know each other.
//!
//! ```text
//! main → cli → server → http, schedule → engine → rollup, cohorts, export, import, demo → metrics | store → daily, names
//!                                                                     → event, parquet, schema → window, digest, checksum, leb128, error
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`engine`] | the operations that HTTP, command line and scheduler share; where store meets metrics |
//! | [`metrics`] | pure: the closed list of metrics; lazy frames of events, or daily states → numbers |
//! | [`store`] | everything that touches the data folder: log, segments, states, postings, manifest, recovery, compaction, expiry |
//! | [`daily`] | pure: what one day leaves behind, how such states merge, and their bytes |
//! | [`names`] | numbers for users, features and event types; who gets one is decided in [`store`], within the limits of a day |
//! | [`event`] | one event ↔ one line of the log; every check and refusal of what clients send |
//! | [`rollup`] | which closed days lack a rollup or have another one than their events say, and the rollup log |
//! | [`cohorts`] | the named sets of users |
//! | [`export`] | answers in every format; events as a stream; the lake for a warehouse, in a folder or a bucket |
//! | [`http`] | the interface: decode, one engine call, encode |
//! | [`cli`], [`server`], [`schedule`] | commands; start and stop of the process; jobs at their times |
//! | [`import`], [`demo`] | existing events in; a made-up history |
//! | [`inflate`] | compressed streams, known by their first bytes |
//! //! | [`window`], [`schema`], [`digest`], [`checksum`], [`leb128`] | days and zones; columns; ids without their text; CRC-32C; numbers as bytes |
//! | [`parquet`] | the one way in which Parquet files are written |
//! | [`config`], [`error`], [`backoff`] | settings; the one error; when failed work is tried again and how often it is traced |
//!
//! # What always holds
//!
//! 1. An event that was answered as logged is on disk: the answer follows `fdatasync`.
//! 2. An event is visible to queries exactly once: in the tail (memory, from the log) or in a segment (Parquet), and
//!    both change in one step under one lock ([`store`]).
//! 3. A query sees every event that was answered before it was asked.
//! 4. The log is the truth until it is sealed, then the segments are. What is in memory (tail, ids for deduplication) is
//!    derived at each start; daily states are what the segments say, to the byte, and outlive them; postings are what one segment
//!    says, and nothing depends on them.
//! 5. A failed sync ends all writing until a restart; a full disk refuses whole requests and heals by itself.
//! 6. Segments and states never change; the manifest alone says which are live, and replacing it is the commit. Another
//!    program that lists the lake sees no event twice, and a day's files in the order of the log.
//! 7. No number is made from damaged bytes: lines and files carry checksums, which are checked before use.
//! 8. The number of a user is the same for ever ([`store`] keeps the dictionary).
//! 9. No clock alone deletes anything, and `received_at` never goes back.
//! 10. What anybody can send is bounded: responses that nobody reads, connections, bytes and events of one client, names of a
//!     day. Beyond a limit nothing that was accepted is lost.
//! 11. Nothing is changed or removed that is not ours by name and place.
//! 12. The address of a client is never stored and never traced; traces hold no user data.
//!
//! # Where to start reading
//!
//! [`engine`], then one metric in its three forms (`src/metrics/x.rs`, `queries/x.sql`, `tests/golden/x.csv`), then [`event`],
//! then [`store`]: under an hour. What every number means is in the doc comment of its metric.

pub mod backoff;
pub mod checksum;
pub mod cli;
pub mod cohorts;
pub mod config;
pub mod daily;
pub mod demo;
pub mod digest;
pub mod engine;
pub mod error;
pub mod event;
pub mod export;

pub mod http;
pub mod import;
pub mod inflate;
pub mod leb128;
pub mod metrics;
pub mod names;
pub mod parquet;
pub mod rollup;
pub mod schedule;
pub mod schema;
pub mod server;
pub mod store;
pub mod window;
