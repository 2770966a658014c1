"""Escapes and shorteners of names; the digests are those of sha256sum(1)."""

import re

import pytest

from app.model.names import digest, escaped, plain, shortened, spelled, suffix

OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_utf_8_cannot_hold_is_spelled_out():
    assert plain("a\udcffé") == "a\\udcffé"
    assert spelled("50%\udcff\n") == "50%\\xff\\x0a"


def test_unsafe_characters_become_their_code_points():
    assert escaped("a^\n\u2028", re.compile("[\\^\n\u2028]"), "^") == "a^5e^0a^2028"


def test_shortened_text_keeps_whole_characters_and_ends_in_a_digest():
    assert shortened("abc", 2, "~") == f"ab~{OF_ABC}"
    assert shortened("éé", 3, "^~", "abc") == f"é^~{OF_ABC}"
    assert digest("abc") == OF_ABC


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.dcm", ".dcm"), ("a.tar.gz", ".gz"), ("a", ""), ("a.123456789", ""), ("a.dé", ""), ("a.dcm\n", "")],
)
def test_suffix(name, expected):
    assert suffix(name) == expected
