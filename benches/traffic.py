"""Batches of events for the benches that send requests: as the browser client sends them, or plain.

A template is the body of a request with placeholders for what differs in each: ids and times. Plain events have no ids,
two metadata keys and no times, like those of `echopilot demo --plain`.
"""

import datetime
import json
import random
import sys

BATCH = 100
TEMPLATES = 50
USERS = 50_000
SESSION_EVENTS = 6
TYPES = ["page_view", "action", "conversion"]
LANDINGS = [
    {"referrer": "https://www.google.com"},
    {"referrer": "https://mail.example", "utm_source": "letter", "utm_medium": "email", "utm_campaign": "weekly"},
    {},
    {},
]

# Placeholders, of the length of what replaces them.
TIME = b"@ time of the event  @@@"
ID_TIME = b"@ms in hexad@"
NUMBER = b"@of request@"


def take_plain():
    """Removes the switch `--plain` from the arguments of the program; returns whether it was given."""
    is_plain = "--plain" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--plain"]
    return is_plain


def events_of_a_batch(rng, plain):
    events = []
    while len(events) < BATCH:
        user = f"user-{rng.randrange(USERS):06d}" if rng.random() < 0.75 else None
        shared = {"platform": rng.choice(["web", "web", "ios", "android"])}
        if not plain:
            shared |= {"country": rng.choice(["DE", "US", "JP", "BR"]), "session": f"{rng.randrange(2**64):016x}"}
        if user:
            shared["plan"] = rng.choice(["free", "pro", "team"])
        first = len(events)
        for place in range(first, min(first + SESSION_EVENTS, BATCH)):
            kind = rng.choices(TYPES, [60, 36, 4])[0] if place > first else "page_view"
            feature = f"feature-{int(rng.paretovariate(1.1)) % 200}"
            event = {"event_type": kind, "user_id": user, "feature": feature, "url": f"/{feature}", "metadata": shared}
            if not user:
                del event["user_id"]
            if not plain:
                event["ts"] = TIME.decode()
                event["url"] += f"/{rng.randrange(100_000)}"
                event["event_id"] = f"{ID_TIME.decode()}-7000-{0x8000 + place:04x}-{NUMBER.decode()}"
                number = rng.randrange(50_000) / 100
                own = {"page_view": {}, "action": {"action": "click"}, "conversion": {"amount": number}}[kind]
                event["metadata"] = shared | own | (rng.choice(LANDINGS) if place == first else {})
            events.append(event)
    return events


def templates(plain=False):
    """Returns the templates of some batches. Equal calls give equal templates."""
    rng = random.Random(1)
    bodies = []
    for _ in range(TEMPLATES):
        body = {"events": events_of_a_batch(rng, plain)}
        if not plain:
            body = {"sent_at": TIME.decode()} | body
        bodies.append(json.dumps(body, separators=(",", ":")).encode())
    return bodies


def body(templates, number):
    """Returns the body of a request. Its ids are unique if its number is."""
    now = datetime.datetime.now(datetime.UTC)
    time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
    ms = b"%012x" % int(now.timestamp() * 1_000)
    template = templates[number % len(templates)].replace(TIME, time)
    return template.replace(ID_TIME, ms[:8] + b"-" + ms[8:]).replace(NUMBER, b"%012x" % number)


def users(templates):
    """Returns the ids of the users of the first template."""
    events = json.loads(templates[0])["events"]
    return sorted({event["user_id"] for event in events if "user_id" in event})
