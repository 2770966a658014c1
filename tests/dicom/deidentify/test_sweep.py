"""Identifiers in text, however they are written, and nothing else."""

import pytest

from app.dicom.deidentify.sweep import (
    Known,
    identifiers,
    keep_known_words,
    person_spellings,
    remove_days,
    replace_uids,
)

NAMES = identifiers(["Quagmire^Glenn", "MRN-48213X", "57130246"])
KNOWN = Known(tuple(sorted(NAMES, key=len, reverse=True)), frozenset(NAMES), frozenset({(1950, 1, 2)}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seen by Quagmire today", "seen by today"),
        ("seen QUAGMIRE today", "seen today"),
        ("ptquagmirect", "ptct"),
        ("Q u a g m i r e done", "done"),
        ("Q-U-A-G-M-I-R-E done", "done"),
        ("Quagmire, Glenn: ok", ": ok"),
        ("mrn48213x", ""),
        ("MRN 48213 X ok", "ok"),
        ("id 5713-0246 ok", "id ok"),
        ("id 15713024699", "id 15713024699"),
        ("born 02/01/1950 here", "born here"),
        ("born 1950-01-02 here", "born here"),
        ("born 2 January 1950 here", "born here"),
        ("born Jan 2, 1950 here", "born here"),
        ("born 02_01_1950 here", "born here"),
        ("born 02011950 here", "born here"),
        ("at 19500102134501 here", "at here"),
        ("idMRN-48213X here", "id here"),
        ("on 19500102.", "on ."),
        ("on 19500103.", "on 19500103."),
        ("head and neck", "head and neck"),
    ],
)
def test_identifiers_go(text, expected):
    assert KNOWN.remove(text) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Lee^Ann", "sleeve scan"),
        ("12", "12 images"),
        ("Anna", "scan nasal"),
        ("X", "X-ray"),
        ("0000", "0000"),
    ],
)
def test_a_short_identifier_must_stand_alone(name, text):
    names = identifiers([name])
    assert Known(tuple(names), frozenset(names)).remove(text) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("O'Brien-Smith^Mary", "for Smith"),
        ("O'Brien-Smith^Mary", "ptO'Brien-Smithct"),
        ("de la Cruz^Ana", "ptDe La Cruzct"),
        ("Müller^Jörg", "for MULLER"),
        ("Müller^Jörg", "for Mueller"),
        ("Mu\N{COMBINING DIAERESIS}ller^Jorg", "for Müller"),
        ("Muller^Jorg", "for Müller"),
        ("Łukasz^Æthel", "for Lukasz"),
    ],
)
def test_a_name_is_found_with_other_accents_and_by_its_parts(name, text):
    names = identifiers(person_spellings(name))
    known = Known(tuple(sorted(names, key=len, reverse=True)), frozenset(names))
    assert known.remove(text) in ("for", "ptct")


def test_words_of_a_number_are_no_identifiers():
    names = identifiers(["MR-HEAD-77", *person_spellings("QIN-HEADNECK-01^MR")])
    assert Known(tuple(names), frozenset(names)).remove("headneck head") == "headneck head"


def test_a_code_meaning_loses_known_dates_and_a_code_does_not():
    known = Known(days=frozenset({(1950, 1, 2)}))
    assert known.spans("born 2.1.1950", code=True) == [(5, 13)]
    assert known.spans("19500102", code=True, days=False) == []


def test_names_in_other_scripts_are_found():
    names = identifiers(["Yamada^Tarou=山田^太郎", "Διονυσιος"])
    known = Known(tuple(names), frozenset(names))
    assert known.remove("山田さん") == "さん"
    assert known.remove("ΔΙΟΝΥΣΙΟΣ ok") == "ok"


def test_a_code_that_is_a_word_of_the_standard_stays():
    names = identifiers(["TEXT^HEAD", "ZQ81"])
    known = Known(tuple(names), frozenset(names))
    assert known.spans("TEXT", code=True) == []
    assert known.spans("ZQ81", code=True) == [(0, 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CT ABDOMEN W/O CONTRAST", "CT ABDOMEN W/O CONTRAST"),
        ("t2_tse_sag_320", "t2_tse_sag_320"),
        ("Thorax Quagmire 1.25mm", "Thorax 1.25mm"),
        ("ZQ8K7X2", ""),
        ("call 5551234", ""),
    ],
)
def test_a_description_keeps_known_words_and_short_numbers(text, expected):
    assert keep_known_words(text) == expected


def test_dates_with_separators_go_and_numbers_stay():
    assert remove_days("on 3.4.2019 and 20190304") == "on and 20190304"
    assert remove_days("t2_tse_3_2_10 3_2_2010") == "t2_tse_3_2_10"


def test_uids_in_text_are_replaced():
    assert replace_uids("see 1.2.826.0.1.3680043.10.9.1.", lambda uid: "2.25.7") == "see 2.25.7."
    assert replace_uids("v1.2.3.4.5 1.2.840.10008.5.1.4.1.1.2", lambda uid: "2.25.7") == (
        "v1.2.3.4.5 1.2.840.10008.5.1.4.1.1.2"
    )
