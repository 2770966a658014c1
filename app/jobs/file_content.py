"""A file anywhere on this machine as the pipeline's Content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from app.model.options import BIG_BYTES
from app.model.values import Content, ObjectRef


def uri_of(path: Path) -> str:
    """Return the address of a file as rows have it; a name may contain any bytes."""
    return f"file://{os.fsencode(path.resolve()).decode(errors='backslashreplace')}"


def content_of(path: Path) -> Content:
    """Return a file that is read when it is opened."""
    found, whole = os.stat(path), path.resolve()
    ref = ObjectRef("", path.name, found.st_mtime_ns)
    return Content(ref, uri_of(path), found.st_size, opener=lambda: whole.open("rb", buffering=0))


def content_at_hand(path: Path, up_to: int = BIG_BYTES) -> Content:
    """Return a file for a worker: read now if it is small, since a worker asks for ranges one by one."""
    content = content_of(path)
    if content.size > up_to:
        return content
    data = path.read_bytes()
    return replace(content, data=data, size=len(data), opener=None)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder in order of their names; links are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(parent, name)
            if file.is_file() and not file.is_symlink():
                yield file
