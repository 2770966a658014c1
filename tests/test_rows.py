import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.rows import artifact_path
from app.storage.folder import file_name

NAMES = st.text(st.sampled_from("ab./%^~ \n\0é\ud800") | st.characters(), max_size=40)


@pytest.mark.parametrize(
    "name", ["a/b.dcm.17", "date=2024/x (1).zip.17/IMG~1", "胸部/1.dcm", "C:\\x.dcm", "#1"]
)
def test_an_ordinary_name_stays_as_it_is(name):
    assert artifact_path(name) == name


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("../a", "^2e./a"),
        ("a/./b", "a/^2e/b"),
        ("/a//b", "^/a/^/b"),
        ("50%^", "50^25^5e"),
        ("a\nb\0", "a^0ab^00"),
        ("x.json/y", "x.json^/y"),
        ("x.PNG/y.png", "x.PNG^/y.png"),
    ],
)
def test_what_stores_do_not_take_is_escaped(name, path):
    assert artifact_path(name) == path


def test_a_long_segment_ends_in_a_digest_of_the_whole():
    first, second = artifact_path("é" * 500 + "1"), artifact_path("é" * 500 + "2")
    assert first != second
    assert len(first.encode()) <= 240


@given(NAMES)
@example(".dicomlake-0123456789abcdef.part")
@example("x" * 300)
def test_a_folder_takes_the_path_and_lists_it_unchanged(name):
    path = f"metadata/{artifact_path(name)}.json"
    assert file_name(path) == path


@given(NAMES, NAMES)
@example("a^2e", "a.")
@example("^", "")
def test_two_names_never_become_one(first, second):
    assert (artifact_path(first) == artifact_path(second)) == (first == second)
