"""Pseudonyms, replacement UIDs and date shifts, all from one secret and so the same on every machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from datetime import date, timedelta

from app.model.errors import ConfigError

LEAST_BYTES = 32
MOST_DAYS = 3650
PURPOSES = ("uid", "patient", "dates", "name", "check")


class Keys:
    """Keyed functions of the values of a data set. None can be undone or guessed without the secret.

    Each purpose has its own key, HMAC-SHA256(secret, purpose), so that what one gives away says nothing
    about another.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < LEAST_BYTES:
            raise ConfigError(
                f"the key of de-identification has fewer than {LEAST_BYTES} bytes: make one with"
                " `openssl rand -base64 48`, keep it, and give it as deidentify.key or --key-file"
            )
        self._keys = {
            purpose: hmac.digest(secret, b"dicomlake deidentify 1 " + purpose.encode(), hashlib.sha256)
            for purpose in PURPOSES
        }
        self._uids: dict[str, str] = {}

    def uid(self, uid: str) -> str:
        """Return the replacement of a UID: 2.25 and a UUID of version 8 (PS3.5 B.2, RFC 9562 5.8).

        It depends on nothing else, because references go from one patient's objects to another's.
        """
        if (known := self._uids.get(uid)) is None:
            digest = bytearray(self._digest("uid", uid)[:16])
            digest[6] = digest[6] & 0x0F | 0x80
            digest[8] = digest[8] & 0x3F | 0x80
            known = self._uids[uid] = f"2.25.{int.from_bytes(digest, 'big')}"
        return known

    def pseudonym(self, subject: str) -> str:
        """Return the name of a patient: P and 15 letters and digits of base32."""
        return "P" + base64.b32encode(self._digest("patient", subject)[:10]).decode()[:15]

    def days(self, subject: str) -> int:
        """Return by how many days the dates of a patient move: -3650 to -1."""
        return -1 - int.from_bytes(self._digest("dates", subject)[:8], "big") % MOST_DAYS

    def name(self, part: str) -> str:
        """Return the replacement of one part of a path: 16 lower-case letters and digits."""
        return base64.b32encode(self._digest("name", part)[:10]).decode().lower()

    def check(self, text: str) -> str:
        """Return a value that is equal only for equal secrets and texts, and gives neither away."""
        return self._digest("check", text)[:8].hex()

    def _digest(self, purpose: str, text: str) -> bytes:
        return hmac.digest(self._keys[purpose], text.encode("utf-8", "surrogatepass"), hashlib.sha256)


def is_replacement(uid: str) -> bool:
    """Return whether a UID can be one that `Keys.uid` made."""
    number = uid.removeprefix("2.25.")
    if number == uid or not number.isdecimal() or len(number) > 39 or int(number) >= 1 << 128:
        return False
    found = uuid.UUID(int=int(number))
    return found.variant == uuid.RFC_4122 and found.version == 8


def shifted(day: date, days: int) -> date | None:
    """Return a date moved by some days, None before the year 1."""
    try:
        return day + timedelta(days)
    except OverflowError:
        return None
