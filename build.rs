//! Compresses the static files that are part of the binary, and reports a dashboard that was not
//! built.

use std::env;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Files that `static/build-dashboard.mjs` makes.
const DASHBOARD: [&str; 8] = [
    "charts.js",
    "dashboard.css",
    "dashboard.js",
    "docs.css",
    "docs.html",
    "docs.js",
    "icon.svg",
    "index.html",
];
/// The browser client, which `make client` makes.
const CLIENT: &str = "static/js/telemetry.min.js";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=static/dist");
    println!("cargo::rerun-if-changed={CLIENT}");
    let dist = Path::new("static/dist");
    if let Some(missing) = DASHBOARD.iter().find(|name| !dist.join(name).exists()) {
        println!(
            "cargo::error=static/dist/{missing} is missing: the dashboard is part of the binary"
        );
        println!("cargo::error=`make dashboard` builds it, with Node 20 or newer and npm");
        return Ok(());
    }
    for name in DASHBOARD {
        write_with_gzip(name, &fs::read(dist.join(name))?)?;
    }
    // The page names its files relative to itself, so that it works under whatever path a proxy
    // mounts the server. Under /demo/ the same page shows the demo, with the same files.
    let page = fs::read_to_string(dist.join("index.html"))?;
    let demo = page.replace("\"static/", "\"../static/");
    write_with_gzip("demo.html", demo.as_bytes())?;
    write_with_gzip("telemetry.js", &fs::read(CLIENT)?)
}

/// Writes a file and its gzip form where the crate includes them.
fn write_with_gzip(name: &str, content: &[u8]) -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(content)?;
    fs::write(out.join(format!("{name}.gz")), gzip.finish()?)?;
    fs::write(out.join(name), content)?;
    Ok(())
}
