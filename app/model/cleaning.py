"""De-identification of a lake: what becomes of the objects of a collection, and how they are named.

Names of objects often hold names of patients, so what leaves the lake shows keyed hashes of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

from app.model.errors import ConfigError
from app.model.keys import Keys
from app.model.options import CleanOptions
from app.model.values import ObjectEvent

OFF = "off"
"""The profile of collections that are not de-identified."""


def check_pixels() -> None:
    """Raise ConfigError unless what finds text in pictures is installed."""
    if find_spec("rapidocr") is None:
        raise ConfigError("deidentify.pixels: needs dicomlake[pixels]; rapidocr is not installed")


@dataclass(frozen=True)
class Cleaning:
    """How a lake de-identifies.

    profile: that of collections without their own. collections: first path segment -> profile; these keep
    their names. secret: of `Keys`. prefixes: what names of objects may begin with, the longest first.
    """

    profile: str
    secret: bytes = field(repr=False)
    collections: Mapping[str, str] = field(default_factory=dict)
    pixels: bool = False
    keep_names: bool = False
    prefixes: tuple[str, ...] = ()
    keys: Keys = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", Keys(self.secret))

    @property
    def identity(self) -> str:
        """A value that changes with anything that changes what leaves the lake; it gives nothing away."""
        facts = [self.profile, sorted(self.collections.items()), self.pixels, self.keep_names]
        return self.keys.check(json.dumps(facts))

    def options(self, name: str) -> CleanOptions:
        """Return what to do with an object by its name."""
        _, folder, _ = self._parts(name)
        profile = self.collections.get(folder, self.profile)
        check = self.keys.check(f"describe {profile}")
        return CleanOptions(profile, self.secret, check, self.pixels, self.keep_names)

    def shown(self, event: ObjectEvent) -> ObjectEvent:
        """Return an event with the name under which its object appears."""
        return replace(event, alias=self.name(event.ref.name))

    def name(self, name: str) -> str:
        """Return the name under which an object appears: a hash for its folder and one for the rest."""
        if self.keep_names:
            return name
        prefix, folder, rest = self._parts(name)
        begins = f"{prefix}{self.collection(folder)}/" if folder else prefix
        return begins + self.keys.name(rest)

    def _parts(self, name: str) -> tuple[str, str, str]:
        """Return the fixed beginning of a name, its collection, and the rest."""
        prefix = next((one for one in self.prefixes if name.startswith(one)), "")
        folder, slash, rest = name.removeprefix(prefix).partition("/")
        return (prefix, folder, rest) if slash else (prefix, "", folder)

    def collection(self, folder: str) -> str:
        """Return the name under which a collection appears."""
        kept = self.keep_names or folder in self.collections or not folder
        return folder if kept else self.keys.name(folder)

    def member(self, label: str) -> str:
        """Return the name under which a member of an archive appears."""
        return label if self.keep_names else self.keys.name(label)
