"""Rows for people: in columns, and unable to steer the terminal they are shown on."""

from datetime import date, datetime, time, timedelta, timezone

import pytest

from app.cli.text_table import table


def test_columns_are_as_wide_as_their_widest_cell():
    assert table([{"modality": "CT", "rows": 128}, {"modality": "MR", "rows": 1024}]).splitlines() == [
        "modality  rows",
        "--------  ----",
        "CT        128",
        "MR        1024",
    ]


def test_what_is_null_is_empty_and_no_rows_are_told():
    assert table([{"a": None, "b": 1}]).splitlines()[2] == "   1"
    assert table([]) == "(no rows)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2J", r"\u001b[2J"),
        ("\x7f", r"\u007f"),
        ("\x9b2J", r"\u009b2J"),  # begins a control sequence as ESC [ does
        ("\u202egnp.exe", r"\u202egnp.exe"),  # turns the direction of what follows
        ("\ud800", r"\ud800"),  # no character, and no UTF-8
        ("\U000e0041", r"\udb40\udc41"),  # an invisible tag
        ('Müller^"Jörg"\\山田', 'Müller^"Jörg"\\山田'),
        ("👩 e\u0301", "👩 e\u0301"),
    ],
)
def test_what_is_no_character_to_see_is_escaped_and_all_else_is_shown(value, shown):
    assert table([{"name": value}]).splitlines()[2] == shown


def test_a_column_may_be_called_anything():
    assert table([{"\x1b[2J": 1}]).splitlines()[0] == r"\u001b[2J"


def test_null_and_the_empty_text_differ():
    assert table([{"null": None, "empty": "", "end": 1}]).splitlines()[2] == "      ''     1"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\x00\xff", "AP8="),
        (datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1))), "2026-03-01T12:00:00.000000Z"),
        (date(2026, 3, 1), "2026-03-01"),
        (time(23, 59, 58, 500000), "23:59:58.500000"),
        ({"Value": ["Müller", 1.5]}, '{"Value":["Müller",1.5]}'),
        ([], "[]"),
        (True, "true"),
    ],
)
def test_values_that_are_no_text_are_shown_as_json_does(value, shown):
    assert table([{"name": value}]).splitlines()[2] == shown
