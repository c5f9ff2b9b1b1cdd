//! The integration tests: the real program, real files, real requests. One binary, because each
//! links Polars.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod alerts;
mod audit;
mod backup;
mod bucket;
mod cli;
mod client;
mod clients;
mod clock;
mod cluster;
mod cohorts;
mod columns;
mod container;
mod damage;
mod dashboard;
mod debian;
mod dedup;
mod delta;
mod doctor;
mod durability;
mod entity_tags;
mod erasure;
mod expiry;
mod explorer;
mod export;
mod faults;
mod filters;
mod formats;
mod funnel;
mod harness;
mod health;
mod histories;
mod ingest;
mod jobs;
mod keys;
mod lake;
mod links;
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
mod plan;
mod properties;
mod proxy;
mod public_limits;
mod query;
mod readers;
mod remote;
mod reports;
mod responses;
mod rollup;
mod seal;
mod service;
mod soak;
mod spark;
mod sql;
mod system;
mod tls;
mod trends;
mod trouble;
mod usage;
mod values;
mod visitors;
mod zones;
