#!/usr/bin/env python3
"""Prints the licences of everything that is part of the program: crates and scripts.

Run in the root of the repository. Crates come from `cargo metadata`, scripts from the lock file of npm; both must be
downloaded, as they are after a build. Equal licence files are printed once, with the list of their packages.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|unlicen[cs]e)", re.IGNORECASE)
# Development dependencies of npm that build the dashboard and are not part of it.
BUILD_TOOLS = {"esbuild", "terser"}


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def cargo(*arguments):
    return output("cargo", *arguments, "--locked", "--offline")


def crates():
    """Yields name, version, licence and folder of each crate that is linked into the program."""
    tree = cargo("tree", "--edges", "normal", "--prefix", "none", "--format", "{p}")
    linked = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    # A build downloads no crates of other platforms.
    platform = re.search(r"^host: (.+)$", output("rustc", "-vV"), re.MULTILINE)[1]
    metadata = cargo("metadata", "--format-version", "1", "--filter-platform", platform)
    for package in json.loads(metadata)["packages"]:
        is_linked = (package["name"], f"v{package['version']}") in linked
        if is_linked and package["source"]:
            folder = Path(package["manifest_path"]).parent
            yield package["name"], package["version"], package["license"] or "see its file", folder


def scripts():
    """Yields the same of each npm package that is part of the dashboard or the client."""
    root = Path("static")
    packages = json.loads((root / "package-lock.json").read_text())["packages"]
    waiting = sorted(set(packages[""]["devDependencies"]) - BUILD_TOOLS)
    found = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            package = packages[f"node_modules/{name}"]
            waiting += package.get("dependencies", {})
            yield name, package["version"], package["license"], root / "node_modules" / name


def main():
    texts = defaultdict(list)
    print("Licences of the software that is part of EchoPilot Analytics.\n")
    for kind, packages in [("Crates", crates()), ("Scripts", scripts())]:
        print(f"{kind}:\n")
        for name, version, licence, folder in sorted(packages):
            print(f"  {name} {version}: {licence}")
            files = [path for path in sorted(folder.iterdir()) if LICENCE_FILE.match(path.name) and path.is_file()]
            for path in files:
                texts[path.read_text(errors="replace").strip()].append(f"{name} {version}")
        print()
    for text, packages in sorted(texts.items(), key=lambda item: (item[1], item[0])):
        print("=" * 100)
        print(", ".join(sorted(set(packages))) + "\n")
        print(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
