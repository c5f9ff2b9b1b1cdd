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
const DASHBOARD: [&str; 12] = [
    "charts-core.js",
    "charts.js",
    "dashboard.css",
    "dashboard.js",
    "docs.css",
    "docs.html",
    "docs.js",
    "icon.svg",
    "index.html",
    "more-charts.js",
    "more.js",
    "shared.js",
];
/// The files of the browser client and their sources, of which `make client` makes the scripts.
const CLIENT: [(&str, &str); 4] = [
    ("telemetry.js", "static/js/telemetry.min.js"),
    ("telemetry-web.js", "static/js/telemetry-web.min.js"),
    ("telemetry-vitals.js", "static/js/telemetry-vitals.min.js"),
    ("telemetry.d.ts", "static/js/telemetry.d.ts"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=static/dist");
    for (_, source) in CLIENT {
        println!("cargo::rerun-if-changed={source}");
    }
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
    for (name, source) in CLIENT {
        write_with_gzip(name, &fs::read(source)?)?;
    }
    Ok(())
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
