"""Profiles by name and from JSON."""

import jsonschema
import pytest

from app.dicom.deidentify.profile import PROFILES, profile_of, profile_schema
from app.model.errors import ConfigError


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(profile_schema())


def test_a_profile_takes_options_and_overrides():
    profile = profile_of(
        "own",
        {
            "name": "Trial 7",
            "base": "research",
            "options": ["full_dates", "institution"],
            "overrides": {
                "StudyDescription": "K",
                "(0018,1030)": "X",
                "00080080": "D",
                "0029,MAKER TEST,01": "K",
            },
        },
    )
    assert profile.name == "Trial 7"
    assert profile.dates == "K"
    assert {"characteristics", "institution", "full_dates"} <= profile.options
    assert profile.overrides == {0x00081030: "K", 0x00181030: "X", 0x00080080: "D"}
    assert profile.private == {("MAKER TEST", 0x0029, 0x01): "K"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "object"),
        ({"options": ["faces"]}, "options/0"),
        ({"overrides": {"Nonsense": "X"}}, "Nonsense is no keyword"),
        ({"overrides": {"PatientName": "Q"}}, "overrides/PatientName"),
        ({"overrides": {"0029,MAKER,01": "D"}}, "K or X"),
        ({"options": ["full_dates", "modified_dates"]}, "keeps dates and moves them"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_place(value, text):
    with pytest.raises(ConfigError, match=text):
        profile_of("own", value)


def test_keys_of_profiles_tell_them_apart():
    assert len({profile.key for profile in PROFILES.values()}) == 3
    assert profile_of("basic", {}).key == PROFILES["basic"].key


def test_dates_are_removed_moved_or_kept():
    assert [PROFILES[name].dates for name in ("basic", "research", "internal")] == ["X", "C", "K"]


def test_options_give_the_actions_of_their_column():
    research, internal = PROFILES["research"].actions(), PROFILES["internal"].actions()
    assert research[0x00080020] == "C"  # Study Date
    assert internal[0x00080020] == "K"
    assert research[0x00101010] == "K"  # Patient's Age
    assert research[0x0008103E] == "C"  # Series Description
    assert internal[0x0020000D] == "K"  # Study Instance UID
    assert internal[0x00100010] == "Z"  # Patient's Name
