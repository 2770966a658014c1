"""What a worker may say to the server, which may be whatever somebody made it say."""

import io
import os
import pickle
from datetime import date, time

import pytest

from app.archive.entries import Refused
from app.errors import NotDicom
from app.pickles import answer, pickled
from app.types import Instance
from app.workers import Workers


class Call:
    """Pickled, this calls a function when it is read."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def named(module: str, name: str) -> bytes:
    """Return a pickle of (True, what has this name)."""
    return (
        b"\x80\x04\x88\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(name)])
        + (name.encode() + b"\x93\x86.")
    )


def said(value: object) -> io.BytesIO:
    return io.BytesIO(b"".join(pickled(value)))


def test_values_and_errors_of_ours_come_whole():
    instance = Instance({"study_date": date(2026, 1, 2), "study_time": time(3, 4)}, {}, b"{}", b"png")
    assert answer(said((True, [instance, Refused("a", "bad")]))) == (True, [instance, Refused("a", "bad")])
    succeeded, error = answer(said((False, NotDicom("no", code="odd"))))
    assert (succeeded, type(error), error.code) == (False, NotDicom, "odd")


def test_no_function_is_called(tmp_path):
    with pytest.raises(pickle.UnpicklingError):
        answer(said((True, Call(os.mkdir, str(tmp_path / "made")))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("app.errors", "contextmanager"),
        ("app.errors", "DicomlakeError.with_traceback"),
        ("app.types", "dataclass"),
        ("app.workers", "Workers"),
        ("app.storage.local", "LocalStorage"),
    ],
)
def test_what_is_no_value_of_ours_has_no_name(module, name):
    with pytest.raises(pickle.UnpicklingError, match="may not name"):
        answer(io.BytesIO(named(module, name)))


def test_a_name_of_ours_is_found_in_such_a_pickle():
    assert answer(io.BytesIO(named("app.types", "Instance"))) == (True, Instance)


@pytest.mark.parametrize(
    "data",
    [b"\x80\x04.", b"junk", b"\x80\x04]\x94.", *(b"".join(pickled(v)) for v in (1, (1, 2), (False, "text")))],
)
def test_what_is_no_answer_is_an_unpickling_error(data):
    with pytest.raises(pickle.UnpicklingError):
        answer(io.BytesIO(data))


def test_a_worker_that_says_it_is_taken_for_dead(tmp_path):
    pool = Workers(1, 1 << 30, 10)
    try:
        with pytest.raises(Exception, match="the worker died") as caught:
            pool.run(Call, os.mkdir, str(tmp_path / "made"))
        assert caught.value.code == "worker_crashed"
        assert list(tmp_path.iterdir()) == []
    finally:
        pool.close()
