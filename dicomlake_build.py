"""Build the wheel with flit: the package `app`, and beside it the module `dicomlake` for notebooks.

flit packs one module only, and `import dicomlake` shall not need the name of our package.
"""

from __future__ import annotations

from pathlib import Path

import flit_core.wheel
from flit_core.buildapi import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]
MODULE = Path("dicomlake.py")


class WheelBuilder(flit_core.wheel.WheelBuilder):  # type: ignore[misc]  # it ships no types
    """Adds the module."""

    def copy_module(self) -> None:
        """Copy the package and the module."""
        super().copy_module()
        self._add_file(self.directory / MODULE, MODULE)


flit_core.wheel.WheelBuilder = WheelBuilder
