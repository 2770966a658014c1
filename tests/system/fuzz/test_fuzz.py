"""The short form of `make fuzz`, and that a campaign would see what it looks for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.dicom.pixels.decoders import BYTEWISE, CODECS
from tests.system.fuzz.__main__ import main
from tests.system.fuzz.campaign import fuzz, pool
from tests.system.fuzz.codestreams import CODESTREAMS
from tests.system.fuzz.mishaps import (
    crash,
    decode,
    decode_badly,
    devour,
    first_mutants,
    hang,
    refuse,
    stumble,
    stumble_into_the_net,
)
from tests.system.fuzz.subject import Subject, trial
from tests.system.fuzz.subjects import SUBJECTS

MUTANTS = 100
WELL = {"event": "OBJECT_FINALIZE", "metadata": "described", "archive": "members"}
LEAST_REACHED = {"pdf": 0.3, "drawing": 0.3, "metadata": 0.3, "archive": 0.4, "event": 0.2}


@pytest.fixture(scope="module")
def workers():
    with pool() as shared:
        yield shared


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_seed_is_valid_and_comes_to_the_decoder(name):
    one = SUBJECTS[name]
    endings = [trial(one.run, one.decoders, one.raises, seed) for seed in one.seeds()]
    assert {ending.code for ending in endings} <= {WELL.get(name, "drawn"), "halved"}
    assert [ending for ending in endings if ending.refused or not ending.reached] == []


@pytest.mark.parametrize("name", SUBJECTS)
def test_only_foreseen_errors_come_of_mutants(name, workers):
    result = fuzz(workers, name, SUBJECTS[name], range(MUTANTS))
    assert result.found == []
    assert result.made + result.refused.total() == result.mutants == MUTANTS
    assert 0 < result.made < MUTANTS
    assert result.reached > LEAST_REACHED.get(name, 0.8) * MUTANTS


def test_every_decoder_of_the_service_is_fuzzed():
    syntaxes = {subject.run.keywords["syntax"] for subject in CODESTREAMS.values()}
    assert syntaxes >= set(BYTEWISE)
    assert {CODECS[syntax] for syntax in syntaxes - set(BYTEWISE)} == set(CODECS.values())


def test_frames_of_jpeg_2000_are_halved_too():
    one = SUBJECTS["j2k"]
    mutants = [one.spoil(one.seeds(), "j2k", number) for number in range(100)]
    codes = [trial(one.run, one.decoders, one.raises, data).code for data in mutants]
    assert (codes.count("halved") > 5, codes.count("drawn") > 5) == (True, True)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_number_is_the_same_mutant_in_every_process(name, workers):
    assert workers.run(first_mutants, name) == first_mutants(name)


# what a campaign must see


def subject(run, *decoders):
    return Subject(lambda: (b"seed",), run, decoders)


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (crash, "crash"),
        (devour, "memory"),
        (stumble, "unforeseen"),
        (stumble_into_the_net, "unforeseen"),
        (decode_badly, "unforeseen"),
    ],
)
def test_what_no_mutant_may_do_is_found_and_the_next_is_tried(run, kind, workers):
    result = fuzz(workers, "made up", subject(run), range(7, 9))
    assert [(number, found) for number, found, _ in result.found] == [(7, kind), (8, kind)]
    assert result.count(kind) == 2
    assert fuzz(workers, "made up", subject(refuse), range(3)).refused == {"not_dicom": 3}


def test_a_hang_ends_at_the_wall_limit():
    with pool(1, timeout_s=1.0) as workers:
        result = fuzz(workers, "made up", subject(hang), range(1))
    assert [found for _, found, _ in result.found] == ["timeout"]


def test_a_pool_that_is_gone_is_the_death_of_the_service():
    with pool(1) as workers:
        workers.close()
        assert fuzz(workers, "made up", subject(refuse), range(2)).count("service") == 2


def test_what_a_decoder_raises_is_foreseen_and_it_was_reached():
    ending = trial(decode, ["textwrap:dedent"], (), b"seed")
    assert (ending.code, ending.refused, ending.reached, ending.unforeseen) == ("bad_dataset", True, True, "")
    assert trial(decode, [], ["TypeError"], b"seed").unforeseen == ""
    assert trial(decode, [], [], b"seed").unforeseen.startswith("TypeError")


def test_exit_code_tells_whether_anything_was_found(capsys, tmp_path):
    subjects = {"well": subject(refuse), "badly": subject(crash)}
    assert main(["well", "--mutants", "3"], subjects) == 0
    assert main(["--mutants", "1", "--first", "5", "--keep", str(tmp_path)], subjects) == 1
    table = capsys.readouterr()
    assert "python -m tests.system.fuzz 'badly' --first 5 --mutants 1" in table.out
    assert "well: 3 of 3" in table.err
    assert [path.name for path in tmp_path.iterdir()] == ["badly-5"]


# any bytes, not only ours


@pytest.mark.parametrize("name", ["metadata", "archive", "event"])
@settings(max_examples=50)
@given(st.data())
def test_any_bytes_over_a_seed_end_in_a_foreseen_error(name, data):
    one = SUBJECTS[name]
    spoilt = bytearray(data.draw(st.sampled_from(one.seeds())))
    for _ in range(data.draw(st.integers(1, 4))):
        at, size = data.draw(st.integers(0, len(spoilt))), data.draw(st.integers(0, 9))
        spoilt[at : at + size] = data.draw(st.binary(max_size=9))
    assert trial(one.run, one.decoders, one.raises, bytes(spoilt)).unforeseen == ""
