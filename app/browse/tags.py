"""Single attributes of a stored instance, as `GET /files/{study}/{file}/tag` answers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.browse import tasks
from app.browse.instances import Stored
from app.browse.objects import Originals

MAX_TAGS = 500
"""Attributes of one request."""


def read_tags(
    stored: Stored, paths: Sequence[str], originals: Originals
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return attributes of an instance by keyword, tag, private creator or path, and the unknown names.

    Raises ObjectGone if the object no longer exists, and the errors of reading it.
    """
    return originals.run(stored, tasks.attributes, originals.limits, list(paths[:MAX_TAGS]))
