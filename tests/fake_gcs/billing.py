"""What an operation of the JSON API is billed as; see https://cloud.google.com/storage/pricing."""

import re

from tests.fake_gcs.messages import Request

REFUSED = 400
_LIST = re.compile(r"/storage/v1/b/[^/]+/o")


def operation_class(request: Request, status: int) -> str:
    """Return "A" or "B"; "" for what is free: a refusal, a removal, and each chunk of an upload."""
    path = request.target.partition("?")[0]
    if status >= REFUSED or request.method in ("DELETE", "PUT"):
        return ""
    reads = request.method == "GET" and not _LIST.fullmatch(path)
    return "B" if reads else "A"
