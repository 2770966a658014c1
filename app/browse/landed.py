"""Files in the landing storage, by label and name: their attributes and pictures.

They need no row, so an upload is visible at once, and so is a file that the pipeline refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from app.browse import tasks
from app.browse.objects import WHOLE_BYTES, Originals, copied
from app.browse.rendered import draw
from app.browse.tags import MAX_TAGS
from app.model.errors import ObjectGone, PermanentError
from app.model.options import RenderOptions
from app.model.values import Content
from app.services import Services
from app.warehouse import queries

MAX_SIDE = 4096
CINE_FILES, CINE_SIDE = 300, 512
"""Pictures of one cine, and the longest side of each."""


def labels(services: Services) -> list[str]:
    """Return the folders of the landing storage; in a lake that de-identifies, those that rows show."""
    if services.cleaning:
        return [str(row["collection"]) for row in services.warehouse.query(*queries.collections())]
    return list(services.source.folders(services.settings.source.write_prefix))


def names(label: str, services: Services) -> list[str]:
    """Return the names of the files of a label; in a lake that de-identifies, those that rows show."""
    prefix = f"{services.settings.source.write_prefix}{label}/"
    if services.cleaning:
        folder = services.source.uri(prefix)
        rows = services.warehouse.query(*queries.rows_below(folder, "instances_current", ["object_uri"]))
        return sorted(str(row["object_uri"]).removeprefix(folder) for row in rows)
    begins = len(services.source.prefix + prefix)
    return [ref.name[begins:] for ref in services.source.list(prefix)]


def content(label: str, name: str, originals: Originals) -> Content | None:
    """Return the live version of a file, or how to read it in ranges; None if there is none.

    In a lake that de-identifies it is the clean copy: a file without one is treated as missing.
    """
    services = originals.services
    path = f"{services.settings.source.write_prefix}{label}/{name}"
    if services.cleaning:
        rows = services.warehouse.query(*queries.copies_of(services.source.uri(path)))
        return copied(str(rows[0]["dicom_uri"]), int(str(rows[0]["generation"])), services) if rows else None
    full = services.source.prefix + path
    ref = next((one for one in services.source.list(path) if one.name == full), None)
    if ref is None:
        return None
    with suppress(ObjectGone):
        located = services.source.locate(ref)
        return located if located.size > WHOLE_BYTES else services.source.fetch(ref)
    return None


def attributes(
    content: Content, names: Sequence[str], originals: Originals
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return attributes of a file by keyword, tag, private creator or path, and the unknown names."""
    return originals.run_on(content, tasks.attributes, originals.limits, list(names[:MAX_TAGS]))


def picture(
    content: Content, how: RenderOptions, window: str | None, max_side: int | None, originals: Originals
) -> bytes:
    """Draw a file in a worker; raises as `rendered.draw`."""
    options = originals.options.preview
    if window is not None:
        options = replace(options, window=window)
    if max_side is not None:
        options, how = replace(options, max_side=max_side), replace(how, viewport=(max_side, max_side))
    return draw(content, how, options, originals)


def cine(label: str, originals: Originals) -> bytes:
    """Return the pictures of a label as one GIF, in the order of names; empty if it has none."""
    services = originals.services
    pictures: list[bytes] = []
    how = RenderOptions("image/png")
    for name in names(label, services):
        if len(pictures) == CINE_FILES:
            break
        with suppress(ObjectGone, PermanentError):  # a file without a picture has no place in a cine
            found = content(label, name, originals)
            if found is not None:
                pictures.append(picture(found, how, None, CINE_SIDE, originals))
    return services.workers.run(tasks.animate, pictures) if pictures else b""
