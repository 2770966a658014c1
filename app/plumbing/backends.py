"""Find the backend of a URL in a table: scheme -> (module, class, extra that installs it)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from app.model.errors import ConfigError

Backends = Mapping[str, tuple[str, str, str | None]]


def load_backend(seam: str, url: str, backends: Backends, setting: str = "") -> Any:
    """Return the backend class for `url`. Importing it loads the vendor's SDK.

    setting: where the URL was given, unless in `<seam>.url`.

    Raises ConfigError if the scheme is unknown or its package is not installed.
    """
    setting = setting or f"{seam}.url"
    scheme, colon, rest = url.partition(":")
    if scheme not in backends or not colon or not rest:
        known = ", ".join(f"{name}:" for name in backends)
        raise ConfigError(f"{setting} {url!r} has no known scheme; begin it with one of {known}")
    module, name, extra = backends[scheme]
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        if extra is None or (exc.name or "").startswith("app."):
            raise
        text = f"{setting} {scheme}: needs dicomlake[{extra}]; {exc.name} is not installed"
        raise ConfigError(text) from exc
