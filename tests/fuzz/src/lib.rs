//! The pure parts of the product that meet untrusted bytes, compiled without Polars.
#![allow(dead_code, reason = "the product uses what the fuzz targets do not")]

#[path = "../../../src/checksum.rs"]
pub mod checksum;
#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/error_code.rs"]
pub mod error_code;
#[path = "../../../src/event/mod.rs"]
pub mod event;
#[path = "../../../src/inflate.rs"]
pub mod inflate;
#[path = "../../../src/store/files/scan.rs"]
pub mod scan;
#[path = "../../../src/sdk/mod.rs"]
pub mod sdk;
#[path = "../../../src/window.rs"]
pub mod window;
