"""Values of the formats of the document, and readers of its media types."""

from datetime import date
from typing import Any

import schemathesis
from hypothesis import strategies

DAYS = strategies.dates(min_value=date(1971, 1, 1), max_value=date(9998, 12, 31))
ZONES = strategies.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Apia"])

schemathesis.openapi.format("date", DAYS.map(str))
schemathesis.openapi.format("iana-time-zone", ZONES)


@schemathesis.deserializer("application/vnd.apache.arrow.stream", "application/vnd.apache.parquet")
def binary(_context: Any, response: Any) -> str:
    """Read a body that only the tests of its own readers look into."""
    return response.content.decode("latin-1")
