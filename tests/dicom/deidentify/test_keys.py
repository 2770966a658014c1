"""Keys: the same secret gives the same values everywhere, another secret gives others."""

import hashlib
import hmac
import uuid
from datetime import date

import pytest

from app.model.errors import ConfigError
from app.model.keys import Keys, is_replacement, shifted
from tests.dicom.deidentify.cleaned import SECRET

UID = "1.2.826.0.1.3680043.10.9.1"


def test_a_short_secret_is_refused():
    with pytest.raises(ConfigError, match="fewer than 32 bytes"):
        Keys(b"x" * 31)


def test_a_uid_is_a_uuid_of_version_8_made_by_hmac():
    key = hmac.new(SECRET, b"dicomlake deidentify 1 uid", hashlib.sha256).digest()
    digest = hmac.new(key, UID.encode(), hashlib.sha256).digest()[:16]
    number = int.from_bytes(digest, "big") & ~(0xF000 << 64) | 0x8000 << 64
    number = number & ~(0b11 << 62) | 0b10 << 62

    made = Keys(SECRET).uid(UID)

    assert made == f"2.25.{number}"
    found = uuid.UUID(int=int(made[5:]))
    assert (found.version, found.variant) == (8, uuid.RFC_4122)
    assert is_replacement(made)
    assert not is_replacement("2.25.1")
    assert not is_replacement(UID)


def test_another_secret_gives_other_values():
    one, other = Keys(SECRET), Keys(SECRET[::-1])
    assert one.uid(UID) != other.uid(UID)
    assert one.pseudonym("patient") != other.pseudonym("patient")
    assert one.check("basic") != other.check("basic")


def test_a_pseudonym_is_base32():
    made = Keys(SECRET).pseudonym("patient\n\nP-1")
    assert len(made) == 16
    assert set(made[1:]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


def test_days_go_back_by_up_to_ten_years():
    days = {Keys(SECRET).days(str(number)) for number in range(2000)}
    assert min(days) >= -3650
    assert max(days) <= -1
    assert len(days) > 1200


def test_no_date_lies_before_the_year_1():
    assert shifted(date(1, 1, 2), -1) == date(1, 1, 1)
    assert shifted(date(1, 1, 1), -1) is None
