"""`deidentify`: the profile, the secret and the worker processes for the job of the same name."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from app.config import Settings
from app.dicom import check_clean, clean_pieces
from app.dicom.deidentify.profile import PROFILES, Profile, profile_of
from app.jobs import deidentify as job
from app.jobs.file_content import content_at_hand
from app.jobs.ingest import Emit, Progress
from app.model.cleaning import check_pixels
from app.model.errors import ConfigError
from app.model.keys import Keys
from app.model.values import Content, Pieces
from app.services import open_workers

FAULTS = frozenset((job.REFUSED, job.LEFT, job.UNREADABLE))
CLEANERS = ("app.dicom.deidentify", "app.dicom.deidentify.verify")


@dataclass(frozen=True, slots=True)
class Job:
    """What to clean, where to write it, by which profile (a name or a file) and with which secret."""

    source: Path
    target: Path
    profile: str
    secret: bytes


def secret_of(settings: Settings, file: Path | None) -> bytes:
    """Return the secret from a file, or else from the settings.

    Raises
    ------
    ConfigError : there is none
    """
    secret = file.read_bytes().strip() if file is not None else settings.deidentify.key.encode()
    if not secret:
        raise ConfigError(
            "there is no key: make one with `openssl rand -base64 48`, keep it, and give it as"
            " deidentify.key or --key-file"
        )
    return secret


def run(work: Job, settings: Settings, emit: Emit, progress: Progress) -> dict[str, object]:
    """Clean a file or folder in worker processes, one per core."""
    profile, keys = load_profile(work.profile, settings.deidentify.pixels), Keys(work.secret)
    options = settings.describe_options()
    with open_workers(settings, *CLEANERS) as workers:

        def clean(content: Content) -> Generator[Pieces]:
            return workers.stream(clean_pieces, content, profile, work.secret, options)

        name = keys.name if settings.deidentify.names == "hash" else str
        key = keys.check(f"{profile.key} {settings.deidentify.names}")
        how = job.Cleaning(clean, name, key, settings.workers.memory_bytes)
        return job.deidentify(work.source, work.target, how, emit, progress)


def check(
    folder: Path, settings: Settings, profile_name: str, emit: Emit, progress: Progress
) -> dict[str, object]:
    """Check a file or folder in worker processes, one per core."""
    profile = load_profile(profile_name, settings.deidentify.pixels)
    options = settings.describe_options()
    with open_workers(settings, *CLEANERS) as workers:

        def examine(file: Path) -> tuple[tuple[str, str], ...]:
            return workers.run(check_clean, content_at_hand(file), profile, options)

        return job.check(folder, examine, emit, progress)


def load_profile(name: str, pixels: bool) -> Profile:
    """Return a profile by its name, or from a JSON file; `pixels` adds that option.

    Raises
    ------
    ConfigError : there is no such profile, the file is not one, or text in pixels cannot be found here
    """
    profile = PROFILES.get(name) or _of_file(name)
    profile = profile.with_pixels() if pixels else profile
    if "pixels" in profile.options:
        check_pixels()
    return profile


def _of_file(name: str) -> Profile:
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{name} is no profile: give {', '.join(PROFILES)} or a JSON file")
    try:
        return profile_of(path.stem, json.loads(path.read_bytes()))
    except ValueError as error:
        raise ConfigError(f"the profile {name} is not JSON: {error}") from None
