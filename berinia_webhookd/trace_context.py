"""W3C Trace Context: reads a `traceparent`, and makes one of an event that came without one.

It makes no spans: `tracing.py` does.
Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from typing import Final

TRACEPARENT: Final = "traceparent"
_VERSION_0: Final = "00"
_FORM: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-)([0-9a-f]{2})(-.*)?",
    re.ASCII,
)
_SAMPLED: Final = 1


def valid_traceparent(header: str) -> str | None:
    """Return a header as version 0 has it, or None where nothing can be made of it."""
    found = _FORM.fullmatch(header.strip())
    if found is None:
        return None
    version, ids, flags, more = found.groups()
    if version == _VERSION_0:
        return None if more else f"{version}-{ids}{flags}"
    return f"{_VERSION_0}-{ids}{int(flags, 16) & _SAMPLED:02x}"  # of others, this much is known


def traceparent_of(event_id: str) -> str:
    """Return the one of an event whose provider sent none: the trace has the event's id. Sampled:
    what the agent records would be dropped by the usual rule otherwise.
    """
    trace = event_id.replace("-", "")
    return f"{_VERSION_0}-{trace}-{trace[16:]}-01"
