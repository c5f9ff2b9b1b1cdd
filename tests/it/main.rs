//! The integration tests: the real program, real files, real requests. One binary, because each
//! links Polars.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod audit;
mod backup;
mod bucket;
mod cli;
mod client;
mod clock;
mod columns;
mod container;
mod damage;
mod dashboard;
mod debian;
mod dedup;
mod doctor;
mod durability;
mod erasure;
mod expiry;
mod export;
mod faults;
mod formats;
mod funnel;
mod harness;
mod health;
mod histories;
mod ingest;
mod jobs;
mod keys;
mod lake;
mod listen;
mod load;
mod many_groups;
mod metrics;
mod monitoring;
mod names;
mod openapi;
mod oracle;
mod order;
mod overlay;
mod ownership;
mod packages;
mod people;
mod permits;
mod properties;
mod proxy;
mod public_limits;
mod query;
mod readers;
mod remote;
mod responses;
mod rollup;
mod seal;
mod service;
mod soak;
mod trouble;
mod usage;
mod zones;
