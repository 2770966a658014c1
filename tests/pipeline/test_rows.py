import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.model.values import ObjectRef
from app.pipeline.rows import artifact_path, artifact_stem, version_path
from app.storage.gcs.storage import object_name
from app.storage.local.files import file_name

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
    assert len(first.encode()) <= 224


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


@pytest.mark.parametrize(
    ("name", "member", "revision", "stem"),
    [
        ("ct/1.dcm", None, None, "ct/1.dcm.17"),
        ("ct/1.dcm", None, 1700000000, "ct/1.dcm.17.r1700000000"),
        ("ct/x.zip", "a/1.dcm", None, "ct/x.zip.17^/a/1.dcm"),
        ("ct/x.zip", "a/1.dcm", 1700000000, "ct/x.zip.17^/a/1.dcm.r1700000000"),
        ("a^b%.dcm", None, None, "a^5eb%.dcm.17"),
        ("a^b%.dcm", None, 5, "a^5eb^25.dcm.17.r5"),
        ("a^b.zip", "c^d", None, "a^5eb.zip.17^/c^5ed"),
        ("x.zip", "m.r5", None, "x.zip.17^/m^2er5"),
        ("x.zip", "m.r5", 5, "x.zip.17^/m^2er5.r5"),
        ("m.r5", None, None, "m.r5.17"),
    ],
)
def test_what_artifacts_are_called(name, member, revision, stem):
    assert artifact_stem(ObjectRef("b", name, 17), member, revision) == stem


def test_a_long_name_leaves_room_for_all_that_is_around_it():
    ref = ObjectRef("b", "d/" * 500 + "x" * 24, 1_700_000_000_000_000)
    stem = artifact_stem(ref, "m/" * 2000, 2**63 - 1)
    assert len(f"some/prefix/metadata/{stem}.json".encode()) <= 1024


VERSIONS = st.tuples(
    st.text(st.sampled_from("ab./^r5e2%") | st.characters(), min_size=1, max_size=12),
    st.sampled_from([1, 5, 7, 17]),
    st.none() | st.text(st.sampled_from("ab./^r5e2%") | st.characters(), min_size=1, max_size=12),
    st.none() | st.sampled_from([1, 5, 7]),
)


@given(VERSIONS, VERSIONS)
@example(("a", 1, "b.7", None), ("a.1/b", 7, None, None))
@example(("x", 7, "m", 5), ("x", 7, "m.r5", None))
@example(("x.7", 5, None, None), ("x", 7, None, 5))
@example(("x.7.r5", 5, None, None), ("x", 7, None, 5))
@example(("x^", 7, None, None), ("x^5e", 7, None, None))
@example(("x.json/a", 7, "b", None), ("x.json/a.7^/b", 7, None, None))
@example(("x", 7, "b", None), ("x.7^/b", 7, None, None))
def test_no_two_descriptions_share_a_name_in_any_store(first, second):
    def names(name, generation, member, revision):
        stem = artifact_stem(ObjectRef("b", name, generation), member, revision)
        return file_name(f"metadata/{stem}.json"), object_name("", f"metadata/{stem}.json")

    for one, other in zip(names(*first), names(*second), strict=True):
        assert (one == other) == (first == second)


@given(VERSIONS)
def test_all_that_is_found_in_a_list_is_listed_unchanged(version):
    name, generation, member, revision = version
    ref = ObjectRef("b", name, generation)
    stem = artifact_stem(ref, member, revision)
    if member is not None or revision is not None:
        assert stem.startswith(version_path(ref))
        assert file_name(f"metadata/{stem}.json") == f"metadata/{stem}.json"
        assert object_name("", f"metadata/{stem}.json") == f"metadata/{stem}.json"
