"""Profiles: which options of PS3.15 Annex E are on, and the overrides of a site."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

import jsonschema
from pydicom.datadict import tag_for_keyword

from app.dicom.deidentify.table import EDITION, ROWS
from app.model.errors import ConfigError

RULES_VERSION = 1
"""Increase this when the same object, profile and secret give a different copy."""
OPTIONS = {
    "pixels": ("113101", "Clean Pixel Data Option"),
    "structured_content": ("113104", "Clean Structured Content Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "full_dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "modified_dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "safe_private": ("113111", "Retain Safe Private Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}
"""Option -> code and meaning in CID 7050 (PS3.16), which the object will name."""
BASIC = ("113100", "Basic Application Confidentiality Profile")
PRIVATE = re.compile(r"\(?([0-9A-Fa-f]{4}),(.+),([0-9A-Fa-f]{2})\)?")
PLAIN = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
PrivateTag = tuple[str, int, int]
"""Creator, group and last byte of the element."""


@dataclass(frozen=True)
class Profile:
    """A profile by name. overrides: tag -> action; private: private attribute -> action, K or X.

    An override holds at every depth and before the table and the options.
    """

    name: str
    options: frozenset[str] = frozenset()
    overrides: Mapping[int, str] = field(default_factory=dict)
    private: Mapping[PrivateTag, str] = field(default_factory=dict)

    @property
    def dates(self) -> str:
        """The action for dates: K (kept), C (moved) or X (removed)."""
        return "K" if "full_dates" in self.options else "C" if "modified_dates" in self.options else "X"

    @property
    def key(self) -> str:
        """A hash of the profile's rules: equal keys mean equal results."""
        return hashlib.sha256(
            json.dumps(
                [
                    EDITION,
                    RULES_VERSION,
                    sorted(self.options),
                    sorted(self.overrides.items()),
                    sorted([*tag, action] for tag, action in self.private.items()),
                ]
            ).encode()
        ).hexdigest()[:16]

    def with_pixels(self) -> Profile:
        """Return this profile with the option to clean pixels."""
        return replace(self, options=self.options | {"pixels"})

    def actions(self) -> Mapping[int, str]:
        """Return tag -> action, still conditional on the type where the table says so."""
        return _actions(self.options, tuple(sorted(self.overrides.items())))


@lru_cache(maxsize=64)
def _actions(options: frozenset[str], overrides: tuple[tuple[int, str], ...]) -> dict[int, str]:
    actions = {}
    for tag, row in ROWS.items():
        chosen = {row.options[option] for option in options if option in row.options}
        actions[tag] = "K" if "K" in chosen else "C" if "C" in chosen else row.action
    return actions | dict(overrides)


RESEARCH = frozenset(
    ("modified_dates", "characteristics", "descriptors", "structured_content", "safe_private")
)
PROFILES = {
    "basic": Profile("basic"),
    "research": Profile("research", RESEARCH),
    "internal": Profile("internal", frozenset(("full_dates", "uids", "device", "institution"))),
}


@lru_cache(maxsize=64)
def read_profile(text: str, pixels: bool = False) -> Profile:
    """Return a profile by its name or from the JSON text of one; `pixels` adds that option.

    Raises
    ------
    ConfigError : there is no such profile, or the text is not one
    """
    profile = PROFILES.get(text)
    if profile is None:
        try:
            profile = profile_of("file", json.loads(text))
        except ValueError:
            names = ", ".join(PROFILES)
            raise ConfigError(f"deidentify.profile: unknown profile; give {names} or a JSON file") from None
    return profile.with_pixels() if pixels else profile


def profile_of(name: str, value: Any) -> Profile:
    """Return the profile that a JSON value describes.

    Raises
    ------
    ConfigError : it does not follow profile.schema.json, or names an unknown attribute
    """
    fault = next(iter(jsonschema.Draft202012Validator(profile_schema()).iter_errors(value)), None)
    if fault is not None:
        place = "/".join(map(str, fault.absolute_path)) or "it"
        raise ConfigError(f"the profile {name} is not valid: {place}: {fault.message}")
    options = frozenset(value.get("options", ()))
    if {"full_dates", "modified_dates"} <= options:
        raise ConfigError(f"the profile {name} keeps dates and moves them: leave out one of the options")
    base = PROFILES[value.get("base", "basic")]
    if {"full_dates", "modified_dates"} & options:
        base = Profile(base.name, base.options - {"full_dates", "modified_dates"})
    overrides: dict[int, str] = {}
    private: dict[PrivateTag, str] = {}
    for attribute, action in value.get("overrides", {}).items():
        _override(name, attribute, action, overrides, private)
    return Profile(value.get("name", name), base.options | options, overrides, private)


def _override(
    name: str, attribute: str, action: str, overrides: dict[int, str], private: dict[PrivateTag, str]
) -> None:
    if match := PRIVATE.fullmatch(attribute):
        group, creator, element = int(match[1], 16), match[2], int(match[3], 16)
        if group % 2 == 0 or action not in "KX":
            raise ConfigError(f"the profile {name}: {attribute} is a private attribute, which is K or X")
        private[creator, group, element] = action
    elif match := PLAIN.fullmatch(attribute):
        overrides[int(match[1] + match[2], 16)] = action
    elif (tag := tag_for_keyword(attribute)) is not None:
        overrides[tag] = action
    else:
        raise ConfigError(f"the profile {name}: {attribute} is no keyword, tag or private attribute")


@lru_cache(maxsize=1)
def profile_schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile's file."""
    return cast("dict[str, Any]", json.loads(files(__package__).joinpath("profile.schema.json").read_bytes()))
