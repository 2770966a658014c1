"""The scan of hostile data sets: the time it takes grows with their size and no faster."""

import io
import struct
import time
from contextlib import suppress

import pytest

from app.dicom.read.dataset import read_dataset
from app.model.errors import BadDataset, LimitExceeded, PermanentError
from app.model.values import Content, ObjectRef
from tests import data

NAME = data.element(0x00100010, "PN", b"Doe^Jane")
SIZE = 320_000
ITEM, OPEN = b"\xfe\xff\x00\xe0", b"\xff\xff\xff\xff"
ITEM_END, SEQUENCE_END = b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
EMPTY_ITEM = ITEM + bytes(4)


def sequence(content: bytes) -> bytes:
    """Return a content sequence of undefined length."""
    return data.element(0x0040A730, "SQ", content + SEQUENCE_END, length=0xFFFFFFFF)


def empty_elements(group: int) -> bytes:
    """Return elements without a value, 8 bytes each."""
    return b"".join(struct.pack("<HH2sH", group, n, b"LO", 0) for n in range(SIZE // 8))


def deep_and_wide() -> bytes:
    """Return 60 sequences one in the other, each with hundreds of empty elements beside the next one."""
    inner = b""
    for _ in range(60):
        inner = sequence(ITEM + OPEN + data.element(0x0040A160, "UT") * (SIZE // 60 // 12) + inner + ITEM_END)
    return inner


HOSTILE = {
    "elements of group 0000": empty_elements(0),
    "the same after pixel data": data.element(0x7FE00010, "OW") + empty_elements(0),
    "zeros and then a byte": bytes(SIZE) + b"\1",
    "short runs of zeros": (bytes(4) + b"LO\0\0" + bytes(24)) * (SIZE // 32) + b"\1",
    "empty elements": empty_elements(9),
    "one empty element again and again": struct.pack("<HH2sH", 0x10, 0x20, b"LO", 0) * (SIZE // 8),
    "private creators": struct.pack("<HH2sH", 9, 0x10, b"LO", 0) * (SIZE // 8),
    "empty items": data.element(0x0040A730, "SQ", EMPTY_ITEM * (SIZE // 8)),
    "empty open items": sequence((ITEM + OPEN + ITEM_END) * (SIZE // 16)),
    "empty sequences": data.element(0x0040A730, "SQ") * (SIZE // 12),
    "deep and wide": deep_and_wide(),
    "empty fragments": data.element(0x7FE00010, "OB", EMPTY_ITEM * (SIZE // 8) + SEQUENCE_END, 0xFFFFFFFF),
    "values of empty fragments": data.element(0x00091010, "OB", EMPTY_ITEM + SEQUENCE_END, 0xFFFFFFFF)
    * (SIZE // 28),
    "stray delimiters": ITEM_END * (SIZE // 8),
    "stray delimiters in a sequence": sequence((EMPTY_ITEM + ITEM_END) * (SIZE // 16)),
    "items longer than their sequence": (data.element(0x0040A730, "SQ", ITEM + b"\x40\0\0\0")) * (SIZE // 20),
    "sequences that go on": data.element(0x0040A730, "SQ", EMPTY_ITEM) + EMPTY_ITEM * (SIZE // 8),
    "no VR": struct.pack("<HH2sH", 9, 0x1001, b"??", 0) * (SIZE // 8),
    "no VR and no other form": struct.pack("<HH2sHL", 9, 0x1001, b"??", 9999, 9) * (SIZE // 12),
    "implicit elements that look explicit": struct.pack("<HHL", 9, 0x1001, 0) * (SIZE // 8),
    "values without an end": data.element(0x00091001, "UN", b"", 0xFFFFFFFF) * (SIZE // 12),
    "texts without an end": data.element(0x00091001, "UT", b"text", 0xFFFFFFFF) * (SIZE // 16),
    "values without an end in sequences": data.element(
        0x0040A730, "SQ", ITEM + b"\x0c\0\0\0" + data.element(0x00091001, "UN", b"", 0xFFFFFFFF)
    )
    * (SIZE // 32),
    "junk in sequences": data.element(0x0040A730, "SQ", EMPTY_ITEM + b"junk, no item") * (SIZE // 33),
    "junk in sequences without an end": sequence(EMPTY_ITEM + b"\x10\0\x20\0LO\xff\xff") * (SIZE // 36),
    "sequences without an end": data.element(0x0040A730, "SQ", EMPTY_ITEM, 0xFFFFFFFF) * (SIZE // 20),
}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("shape", HOSTILE)
def test_a_hostile_data_set_is_scanned_at_once(shape, in_memory):
    """The dearest of these costs five times as many plain elements; growth with the square, hundreds."""
    plain = cpu_s(data.raw(NAME, HOSTILE["empty elements"]), in_memory)
    assert cpu_s(data.raw(NAME, HOSTILE[shape]), in_memory) < 12 * plain


def cpu_s(raw: bytes, in_memory: bool) -> float:
    """Return the CPU seconds that reading a data set takes."""
    stream = Content(ObjectRef("b", "n", 1), "gs://b/n", len(raw), opener=lambda: io.BytesIO(raw))
    began = time.process_time()
    with suppress(PermanentError):
        read_dataset(data.content(raw) if in_memory else stream)
    return time.process_time() - began


@pytest.mark.parametrize(
    "many", [sequence(EMPTY_ITEM * 1_000_001), data.element(0x7FE00010, "OB", EMPTY_ITEM * 1_000_002)]
)
def test_more_than_a_million_items_or_fragments_are_too_many(many):
    opened = many[:8] + OPEN + many[12:]
    with pytest.raises(LimitExceeded):
        data.parse(data.raw(NAME, opened))


UNKNOWN = "the value of an unknown element is cut off"


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (data.element(0x00100010, "PN", b"Doe^Jane"[:6], length=8), "the value of 00100010 is cut off"),
        (data.element(0x00091002, "LO", b"secret", length=8), UNKNOWN),
        (data.element(0x00100010, "PN", b"Doe^Jane" * 3, length=8), UNKNOWN),
        (data.element(0x00100010, "PN", b"Doe^JaneDo\0\0ULneDoe^Jane", length=8), UNKNOWN),
    ],
    ids=["known", "private", "a value where an element should be", "one that ends in zeros"],
)
def test_what_is_cut_off_is_named_only_if_the_standard_names_it_else_it_may_be_four_bytes_of_a_value(
    broken, text
):
    with pytest.raises(BadDataset) as caught:
        read_dataset(data.content(data.raw(broken)))
    assert (caught.value.text, caught.value.code) == (text, "truncated")
