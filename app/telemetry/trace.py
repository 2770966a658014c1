"""The trace that a request belongs to, as the keys by which Cloud Logging joins lines to requests.

https://www.w3.org/TR/trace-context/ and https://cloud.google.com/trace/docs/trace-context. The sender of a
request chooses these ids, so only ids of exactly this form are accepted.
"""

from __future__ import annotations

import re

TRACE, SPAN, SAMPLED = (f"logging.googleapis.com/{name}" for name in ("trace", "spanId", "trace_sampled"))
"""Special fields of structured logging, https://cloud.google.com/logging/docs/structured-logging."""

# Version 00 has four fields, later ones may have more; ff is none.
_W3C = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]{1,256})?")
_GOOGLE = re.compile(r"([0-9a-fA-F]{32})(?:/([0-9]{1,20}))?(?:;o=([0-9]{1,3}))?")


def trace_fields(traceparent: str, cloud_context: str, project: str) -> dict[str, object]:
    """Return the fields of a log line that name the trace of its request; none where no header is valid.

    Parameters
    ----------
    traceparent : value of that header, which wins, or empty
    cloud_context : value of X-Cloud-Trace-Context, `TRACE_ID/SPAN_ID;o=OPTIONS` with a decimal span, or empty
    project : id of the project that has the traces; without one the trace is named by its id alone
    """
    trace, span, flags = _w3c(traceparent) or _google(cloud_context) or ("", "", 0)
    if not trace:
        return {}
    fields: dict[str, object] = {TRACE: f"projects/{project}/traces/{trace}" if project else trace}
    if span:
        fields[SPAN] = span
    return fields | {SAMPLED: bool(flags & 1)}


def _w3c(text: str) -> tuple[str, str, int] | None:
    found = _W3C.fullmatch(text)
    if found is None or (found[1] == "00" and found[5]) or not (found[2].strip("0") and found[3].strip("0")):
        return None
    return found[2], found[3], int(found[4], 16)


def _google(text: str) -> tuple[str, str, int] | None:
    found = _GOOGLE.fullmatch(text)
    if found is None or not found[1].strip("0"):
        return None
    span = int(found[2] or 0)
    return found[1].lower(), f"{span:016x}" if 0 < span < 2**64 else "", int(found[3] or 0)
