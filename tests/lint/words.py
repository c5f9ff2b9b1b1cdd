#!/usr/bin/env python3
"""Finds words that have a standard term, riddles as the first line of a doc comment, and comments that are too wide.

Reads comments, doc comments, string literals that hold words, documents and names of tests: of the files that Git
knows, or of the files and folders given. Identifiers are not read, and neither is code in backticks, in code blocks
and in the braces of format strings. Prints a line for each finding; the exit status is 1 if there is one.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# (pattern, the field's term). Patterns match whole words without regard to case; a hyphen joins words.
TERMS = [
    (
        r"(?<!plain )(?<!help )(?<!alt )(?<!free )(?<!readable )(?<!cipher )(?<!select the )"
        r"(?!(?-i:TEXT\b))texts?(?! ?(/|files?\b|formats?\b|editors?\b|nodes?\b|contents?\b|colou?rs?\b|fields?\b"
        r"|inputs?\b|search\b|contrasts?\b|directions?\b))",
        "string",
    ),
    (r"questions?(?! marks?\b)", "query"),
    (r"answer(s|ed|ing|able)?", "response, respond, result"),
    (r"refus(e|es|ed|ing|al|als)", "reject, error response"),
    (r"number of (a|the|its|their|this|that|each|one) (user|feature|text|name|string)", "id, code"),
    (r"numbers of (a|the|its|their|this|that|each|one)? ?(user|feature|text|name|string)s?", "ids, codes"),
    (r"(user|feature|text|name)('s|s)? numbers?", "id, code"),
    (r"numbering", "dictionary"),
    (r"gates?", "erased-user filter"),
    (r"acts(?! (as|on|like)\b)", "step events, occurrences"),
    (r"presences?", "active users by day"),
    (r"(is|are|was|were|be) whole(?! numbers?\b)", "valid, complete"),
    (r"besides?", "in the background, concurrently, next to, also"),
    (r"(?<!in )facts?", "metadata"),
    (r"rooms?", "capacity, free space"),
    (r"look(s|ed|ing)? at", "inspect, read"),
    (r"(give|gives|gave|given|giving) up", "cancel, stop"),
    (r"packed", "compressed"),
    (r"the way to", "handle, channel"),
    (r"judg(e|es|ed|ing)|verdicts?", "validate, outcome"),
    (r"drafts?", "write batch"),
    (r"(left|leave|leaves) behind", "daily state, remains"),
    (r"sets? aside|mend(s|ed|ing)?", "quarantine, repair"),
    (r"places? in (a|the) row", "ticket, order"),
    (r"(its|their|his|whose) turn", "permit, ticket"),
    (r"(?<!copyright )holders?", "lock owner"),
    (r"instants?", "timestamp"),
    (r"anew", "again, rebuild"),
    (r"made[- ]up", "synthetic"),
    (r"watch(es|ed|ing|er|ers)?", "subscribe, subscriber, monitor"),
    (r"(nobody|somebody)('s)?", "anonymous; another process; none"),
    (r"whoever|whomever", "the client, process or user that"),
    (r"what (is|was) there", "the name of the thing"),
    (r"(said|say|says) once|(is|are|was|were|be) said", "deduplicated; reported"),
    (r"(?<!front )doors?", "endpoint, interface, entry point"),
    (r"to be had|(was|is|are|were) to be (read|seen|found)", "available; plain active voice"),
    (
        r"(?<!there )(?<!there's )(is|are|was|were) no "
        r"(?!(longer|more|less|fewer|other|such|worse|better|way|later|earlier|need|reason|one)\b)\w+",
        "is not a",
    ),
]
RULES = [(re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE), f"say {term}") for pattern, term in TERMS]
# A doc comment begins with what the thing is or does. A sentence that asks is a question and may stay.
RIDDLE = re.compile(r"(What|Who|Whom|Whose|Whether|How|Why|Which)\b(?!.*\?)")
COMMENT_COLUMNS = 100

# Passages with a kind: `comment`, `doc` (begins with what the thing is or does), `text` (a string literal).
IN_TEMPLATES = r"\$\{((?:[^{}`]|\{[^{}]*\}|`(?:\\.|[^`\\])*`)*)\}"
IN_STRINGS = r"\{[^{}\n]*\}|`[^`\n]*`"
STRING = r'"(?:\\.|[^"\\])*"'
LINE_STRING = r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
SLASHES = r"//[^\n]*|/\*.*?\*/"
HASH = r"(?:(?<=\s)|(?<![\s\S]))#[^\n]*"
GRAMMARS = {
    "rust": rf"(?P<text>b?r(?P<hashes>#*)\".*?\"(?P=hashes)|{STRING})|(?P<comment>{SLASHES})"
    r"|(?P<skipped>b?'(?:\\.[^']*|[^'\\])')",
    "javascript": rf"(?P<comment>{SLASHES})|(?P<text>{STRING}|'(?:\\.|[^'\\\n])*'"
    r"|`(?:\\.|\$\{(?:[^{}`]|\{[^{}]*\}|`(?:\\.|[^`\\])*`)*\}|[^`\\])*`)"
    r"|(?P<skipped>(?:[=(,:;!&|?{}\[+]|\breturn)\s*/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[dgimsuvy]*)",
    "css": r"(?P<comment>/\*.*?\*/)",
    "python": rf'[rR]?"""(?P<doc>.*?)"""|(?P<text>[bfruBFRU]*(?:{STRING}|\'(?:\\.|[^\'\\\n])*\'))'
    r"|(?P<comment>\#[^\n]*)",
    "sql": r"(?P<comment>--[^\n]*)|(?P<skipped>'[^']*')",
    "c": rf"(?P<text>{STRING})|(?P<comment>{SLASHES})|(?P<skipped>'(?:\\.|[^'\\\n])+')",
    "shell": rf"(?P<comment>{HASH})|(?P<text>{LINE_STRING})",
    "settings": rf"(?P<comment>{HASH}|^;[^\n]*)|(?P<text>{LINE_STRING}|(?<=: )[^\n#\"'\[{{]+|(?<==)[^\n#\"'\[{{]+)",
    "html": r"(?P<comment><!--.*?-->)|(?P<skipped><(?:script|style)\b.*?</(?:script|style)>)"
    r"|(?<=\s)(?:title|alt|aria-label|placeholder|content)=(?P<text>\"[^\"]*\")|(?<=>)(?P<content>[^<]+)",
    "json": r'"(?:description|why|reason|title|name)"\s*:\s*(?P<text>"(?:\\.|[^"\\])*")',
}
GRAMMARS = {name: re.compile(grammar, re.S | re.M) for name, grammar in GRAMMARS.items()}
SUFFIXES = {
    ".rs": "rust", ".js": "javascript", ".mjs": "javascript", ".ts": "javascript", ".css": "css", ".py": "python",
    ".sql": "sql", ".c": "c", ".sh": "shell", ".toml": "settings", ".yml": "settings", ".yaml": "settings",
    ".service": "settings", ".timer": "settings", ".conf": "settings", ".html": "html", ".json": "json",
    ".md": "markdown",
}  # fmt: skip
TEST_NAMES = {
    "rust": re.compile(r"#\[test\]\s*(?:#\[[^\n]*\]\s*|//[^\n]*\s*)*fn (\w+)"),
    "python": re.compile(r"^\s*def (test_\w+)", re.M),
}
# A literal is read if it has two words in a row, or is one word with a capital, as labels are.
LABEL_OR_SENTENCE = re.compile(r"[A-Za-z']{2,}[,.;:]? [a-z]|^\W*[A-Z][a-z]+\W*$")
# Generated files, data, and the list of words itself.
SKIPPED = (
    "static/dist/", "static/js/telemetry.min.js", "tests/fixtures/", "tests/fuzz/seeds/", "tests/golden/events.ndjson",
    "tests/lint/words.py", "tests/lint/test_words.py", "tests/proptest-regressions/",
)  # fmt: skip
SKIPPED_NAMES = ("package-lock.json", "node_modules", "__pycache__", ".venv")


def language_of(path, content):
    """Name of the grammar of a file, or None."""
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix]
    if path.name == "Makefile":
        return "shell"
    first_line = content.split("\n", 1)[0]
    if first_line.startswith("#!"):
        return "python" if "python" in first_line else "shell"
    return None


def blank(string):
    """The string with a blank for each character; lines stay."""
    return re.sub(r"[^\n]", " ", string)


def without(pattern, string):
    """The string with blanks in the places that match."""
    return re.sub(pattern, lambda found: blank(found[0]), string, flags=re.S)


def passages(language, content, start=0):
    """Yields (kind, offset, string) of the parts of a file that people read. Offsets stay true within each string."""
    if language == "markdown":
        yield "comment", 0, without(r"```.*?```|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", content)
        return
    run = None
    for found in GRAMMARS[language].finditer(content):
        kind = next((name for name in ("comment", "doc", "text", "content") if found.groupdict().get(name)), None)
        if kind is None:
            continue
        offset, string = found.start(kind), found[kind]
        if kind != "comment":
            code = IN_TEMPLATES if language == "javascript" else IN_STRINGS
            if language == "javascript" and string.startswith("`"):
                for inner in re.finditer(IN_TEMPLATES, string):
                    yield from passages(language, inner[1], start + offset + inner.start(1))
            # A line of a Rust string that ends in a backslash goes on in the next one.
            words = without(code, re.sub(r"\\\n[ \t]*", lambda gap: " " * len(gap[0]), string))
            if kind == "doc" or LABEL_OR_SENTENCE.search(words):
                yield kind, start + offset, words
            continue
        # Comments on lines that follow each other are one passage, so that a sentence may wrap.
        marker = re.match(r"//[/!]?|/\*\*?|--|#+|<!--|;", string)[0]
        between = content[run[1] + len(run[2]) : offset] if run else ""
        if run and run[0] == marker and re.fullmatch(r"\n[ \t]*", between) and not marker.startswith("/*"):
            run = (marker, run[1], run[2] + between + string)
            continue
        if run:
            yield from comment(run, start)
        run = (marker, offset, string)
    if run:
        yield from comment(run, start)


def comment(run, start):
    """A run of comments as one passage, without its markers and its code."""
    marker, offset, string = run
    kind = "doc" if marker in ("///", "//!", "/**") else "comment"
    string = re.sub(r"^[ \t]*(//[/!]?|/?\*+/?|--|#+|;)", lambda found: blank(found[0]), string, flags=re.M)
    yield kind, start + offset, without(r"```.*?```|`[^`]*?`|\]\([^)\s]*\)", string)


def in_one_line(string):
    """The words of a string with one blank between them, and the offset that each character has in the string."""
    sentence, offsets = "", []
    for word in re.finditer(r"\S+", string):
        sentence += f"{word[0]} "
        offsets += range(word.start(), word.end() + 1)
    return sentence, offsets


def findings(language, content):
    """Yields (line, message) for a file."""
    for kind, offset, string in passages(language, content):
        sentence, offsets = in_one_line(string)
        for rule, message in RULES:
            for found in rule.finditer(sentence):
                yield line_of(content, offset + offsets[found.start()]), f"{found[0]!r}: {message}"
        if kind == "doc" and (riddle := RIDDLE.match(sentence.split(". ")[0])):
            message = f"a doc comment begins with what the thing is or does, not with {riddle[1]!r}"
            yield line_of(content, offset + offsets[0]), message
    for found in TEST_NAMES[language].finditer(content) if language in TEST_NAMES else ():
        name = found[1].replace("_", " ")
        for rule, message in RULES:
            if word := rule.search(name):
                yield line_of(content, found.start(1)), f"{word[0]!r} in the name of a test: {message}"
    if language == "rust":
        yield from wide_comments(content)


def wide_comments(content):
    """Yields the comment lines of a Rust file that are wider than rustfmt makes code. A URL cannot wrap."""
    for found in GRAMMARS["rust"].finditer(content):
        if not found["comment"]:
            continue
        begin = content.rfind("\n", 0, found.start()) + 1
        end = content.find("\n", found.end())
        for line in content[begin : end if end >= 0 else None].split("\n"):
            if len(line) > COMMENT_COLUMNS and "://" not in line and "//" in line:
                yield line_of(content, begin), f"a comment ends in column {len(line)}; the limit is {COMMENT_COLUMNS}"
            begin += len(line) + 1


def line_of(content, offset):
    """Line number of an offset, from 1."""
    return content.count("\n", 0, offset) + 1


def files(names):
    """Yields the files to read, of names of files and folders."""
    for name in names:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not any(part in SKIPPED_NAMES for part in file.parts):
                yield file


def main(arguments):
    """Prints the findings; returns the exit status."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = (
        arguments or subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    )
    total = 0
    for file in files(names):
        relative = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
        if relative.startswith(SKIPPED):
            continue
        try:
            content = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if language := language_of(file, content):
            for line, message in sorted(set(findings(language, content))):
                print(f"{relative}:{line}: {message}")
                total += 1
    if total:
        print(f"{total} findings; the terms are in tests/lint/words.py", file=sys.stderr)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
