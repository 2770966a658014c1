"""Take out of an environment what the service never opens: run in the build of the image, by its own Python.

    python slim.py decoders.py

imagecodecs brings some eighty codecs, each with its libraries; `decoders.py` names the few that are called.
What these map into memory stays. Also goes what only compilers, type checkers and test runs read.
"""

import re
import shutil
import sys
from pathlib import Path

import imagecodecs

UNREAD = {".a", ".c", ".h", ".pxd", ".pyi", ".pyx"}


def mapped() -> set[Path]:
    """Return the files that are mapped into this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in lines if line.endswith(".so") or ".so." in line}


def main() -> None:
    """Open every decoder that is named, then remove all other codecs and the unread files."""
    package = Path(imagecodecs.__file__).parent
    decoders = set(re.findall(r"imagecodecs\.(\w+)", Path(sys.argv[1]).read_text()))
    for name in decoders:
        getattr(imagecodecs, name)
    keep = mapped()
    for folder in (package, package.with_name("imagecodecs.libs")):
        for library in folder.glob("*.so*"):
            if library not in keep:
                library.unlink()
    for path in sorted(package.parent.rglob("*")):
        if path.is_dir() and path.name == "tests":
            shutil.rmtree(path)
        elif path.suffix in UNREAD:
            path.unlink(missing_ok=True)  # may have gone with its folder


if __name__ == "__main__":
    main()
