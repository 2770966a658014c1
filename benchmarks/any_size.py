"""What an object of 4 GB costs: its metadata and preview in a worker that may map 384 MiB.

    python -m benchmarks.any_size [FOLDER]

The objects are written to FOLDER, by default a temporary one: sparse files, about 60 MB each on the disk.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path

from app.model.errors import PermanentError
from app.workers.pool import Workers
from benchmarks.huge import KINDS, MIB, PARTS, described, write


def report(workers: Workers, path: Path, kind: str) -> str:
    """Describe one object and return a line of figures."""
    write(path, kind)
    size = path.stat().st_size
    try:
        found = described(workers, path)
    except PermanentError as exc:
        return f"{kind:<22} {size / 1e9:5.2f} GB   refused: {exc.code}"
    finally:
        path.unlink()
    picture = found.instance.preview_error or f"{len(found.instance.preview or b'')} bytes"
    return (
        f"{kind:<22} {size / 1e9:5.2f} GB   read {found.taken / 1e6:7.2f} MB {found.taken / size:8.3%}"
        f"   {found.seconds:5.2f} s   peak {found.peak / MIB:4.0f} MiB   preview {picture}"
    )


def main() -> None:
    """Print a line for each kind of object, each in a fresh process."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as folder:
        for kind in KINDS:
            with closing(Workers(1, 384 * MIB, 120.0, preload=PARTS)) as workers:
                print(report(workers, Path(folder) / "huge.dcm", kind), flush=True)


if __name__ == "__main__":
    main()
