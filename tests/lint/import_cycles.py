"""Import cycles between the modules of `src`: none are allowed.

Usage: import_cycles.py [SRC]

An edge leads from a file to each module that its `use` declarations and paths name, unit tests excluded. A module and
the modules in its folder are different nodes, except that `mod.rs` may name its own children and their exports. Prints
the cycles and exits with 1 if there is one.
"""

import pathlib
import re
import sys


def modules(src):
    """Returns the file of each module, by its path from the crate."""
    found = {}
    for file in sorted(src.rglob("*.rs")):
        parts = list(file.relative_to(src).with_suffix("").parts)
        if parts[-1] in ("mod", "lib", "main"):
            parts.pop()
        found[tuple(parts)] = file
    return found


def code(file):
    """Returns the source of a file without comments, strings and unit tests."""
    text = file.read_text()
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    return re.split(r"#\[cfg\(test\)\]\s*mod tests", text)[0]


def paths(text):
    """Yields the paths in `use` declarations, with braces expanded, and those that begin at the crate or a parent."""
    for use in re.findall(r"\buse\s+([^;]+);", text):
        yield from expand(re.sub(r"\s+", " ", use))
    yield from re.findall(r"\b(?:crate|super)(?:::\w+)+", re.sub(r"\buse\s+[^;]+;", "", text))


def expand(use):
    """Yields `a::b` and `a::c::d` for `a::{b, c::{d}}`."""
    match = re.match(r"([^{]*)\{(.*)\}\s*$", use)
    if not match:
        yield use.split(" as ")[0].strip()
        return
    prefix, inner = match.groups()
    depth, part = 0, ""
    for char in inner + ",":
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            if part.strip():
                yield from expand(prefix.strip() + part.strip())
            part = ""
        else:
            part += char


def targets(module, file, known):
    """Yields the modules that a module names."""
    for path in paths(code(file)):
        parts = path.split("::")
        if parts[0] == "crate":
            place = parts[1:]
        elif parts[0] in ("super", "self"):
            base = list(module)
            while parts and parts[0] in ("super", "self"):
                if parts.pop(0) == "super":
                    base.pop()
            place = base + parts
        elif (*module, parts[0]) in known:
            place = list(module) + parts
        else:
            continue
        while place and tuple(place) not in known:
            place.pop()
        target = tuple(place)
        # `mod.rs` may name its children.
        is_child = target[: len(module)] == module and file.name in ("mod.rs", "lib.rs", "main.rs")
        if target and target != module and not is_child:
            yield target


def cycles(edges):
    """Returns the groups of modules that reach each other (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(edges[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def main():
    src = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "src")
    known = modules(src)
    edges = {module: set(targets(module, file, known)) for module, file in known.items()}
    found = cycles(edges)
    for group in found:
        print("import cycle:", ", ".join("::".join(module) for module in group))
        for module in group:
            inside = [target for target in edges[module] if target in group]
            print("  ", "::".join(module), "→", ", ".join(sorted("::".join(target) for target in inside)))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
