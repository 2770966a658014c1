"""What a hint of the operating system means: a path that is, or was, below the root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def below(root: Path, path: str) -> str | None:
    """Return the name below the root that a hint means, "" for the root itself, None for what lies outside.

    The library follows links, so it may call a file by way of one.
    """
    folder, name = os.path.split(path)
    real = Path(os.path.realpath(folder), name)
    if not real.is_relative_to(root):
        return None
    return "" if real == root else real.relative_to(root).as_posix()


def folders(name: str) -> Iterator[str]:
    """Yield a name as that of a folder, with a slash at its end, and all folders above it."""
    while name:
        yield f"{name}/"
        name = name.rpartition("/")[0]
