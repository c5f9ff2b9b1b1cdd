//! Says what is missing when the dashboard, which is part of the binary, was not built.

use std::path::Path;

/// What `static/build-dashboard.mjs` makes.
const FILES: [&str; 5] = [
    "charts.js",
    "dashboard.css",
    "dashboard.js",
    "icon.svg",
    "index.html",
];

fn main() {
    println!("cargo::rerun-if-changed=static/dist");
    let mut files = FILES.iter().map(|name| Path::new("static/dist").join(name));
    if let Some(missing) = files.find(|path| !path.exists()) {
        let missing = missing.display();
        println!("cargo::error={missing} is missing: the dashboard is part of the binary");
        println!("cargo::error=`make dashboard` builds it, with Node 20 or newer and npm");
    }
}
