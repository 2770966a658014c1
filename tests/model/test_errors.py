"""What becomes of an error: its class and its place in our code travel on, its text never does."""

import logging
import re
import sys

import pytest

from app.model.errors import (
    BadDataset,
    InternalError,
    LimitExceeded,
    StorageUnavailable,
    internal,
    permanent,
    places,
)
from app.model.values import Content, Message
from app.pipeline.attempt import Attempt
from app.telemetry.metrics import Metrics

LINE = r"app/model/values\.py:\d+"


def bug(content):
    """Fail inside our code, where this has no such attribute."""
    return Content.open(content)


def caught(content="DOE^JANE"):
    with pytest.raises(AttributeError) as fault:
        bug(content)
    return fault.value


def test_places_are_those_of_our_own_folder_the_innermost_last():
    (place,) = places(caught())
    assert re.fullmatch(LINE, place)


def test_a_library_below_a_folder_called_app_is_not_our_code(tmp_path, monkeypatch):
    library = tmp_path / "app" / "site-packages"
    library.mkdir(parents=True)
    (library / "some_library.py").write_text("def fail():\n    raise ValueError('a secret')\n")
    monkeypatch.syspath_prepend(str(library))
    import some_library

    with pytest.raises(ValueError, match="a secret") as fault:
        some_library.fail()
    assert places(fault.value) == []
    del sys.modules["some_library"]


def test_an_error_nobody_foresaw_becomes_internal_with_class_and_place():
    with pytest.raises(InternalError) as fault, internal():
        bug("DOE^JANE")
    assert re.fullmatch(rf"AttributeError at {LINE}", fault.value.text)
    assert isinstance(fault.value.__cause__, AttributeError)


def test_an_error_of_the_tree_passes_unchanged():
    error = StorageUnavailable("down")
    with pytest.raises(StorageUnavailable) as fault, internal(), permanent(BadDataset):
        raise error
    assert fault.value is error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [(ValueError("DOE^JANE"), BadDataset, "ValueError"), (MemoryError(), LimitExceeded, "out of memory")],
)
def test_what_a_pure_step_raises_is_permanent_without_its_text(error, kind, text):
    with pytest.raises(kind) as fault, permanent(BadDataset):
        raise error
    assert (fault.value.text, fault.value.__suppress_context__) == (text, True)


@pytest.mark.parametrize("here", [True, False], ids=["of this process", "of a worker"])
def test_a_bug_is_logged_with_its_class_and_place(here, caplog):
    error = InternalError("AttributeError at app/model/values.py:1")
    error.__cause__ = caught() if here else None
    attempt = Attempt(Message(b"", {}, "1"), 60, Metrics())
    with caplog.at_level(logging.WARNING, "dicomlake"):
        attempt.end(logging.WARNING, "failed", error)
    (record,) = caplog.records
    assert record.exc_info[1] is (error.__cause__ if here else error)
