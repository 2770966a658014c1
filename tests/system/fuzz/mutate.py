"""A mutant: a valid seed with a few edits, of the kinds that break parsers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

STRANGE: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 1e300, "", "0", "-1", "9" * 400, "x" * 5000, [], {}, [[]], {"a": None}),
    *("../../etc/passwd", "a\n{}", "\0", "\ud800", "\u202e", "OBJECT_DELETE", "MjA=", "%00", "//", "NaN"),
)
INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
EDITS_AT_ONCE = (1, 1, 2, 3, 6)
SHARE_BEHIND = 0.75
"""Of the mutants, how many keep the header of their seed, whose check would refuse most of the others."""


def mutant(
    seeds: Sequence[bytes], subject: str, number: int, head: Callable[[bytes], int] = lambda _: 0
) -> bytes:
    """Return mutant `number` of a subject; `head` tells how many bytes of a seed its header takes."""
    chance = random.Random(f"{subject} {number}")
    seed = chance.choice(seeds)
    kept = head(seed) if chance.random() < SHARE_BEHIND else 0
    data = bytearray(seed[kept:])
    # Half of them stay as long as they were, so that the lengths inside hold and more is read.
    edits = chance.choice((EDITS, IN_PLACE))
    for _ in range(chance.choice(EDITS_AT_ONCE)):
        chance.choice(edits)(data, chance)
    return seed[:kept] + bytes(data)


def json_mutant(seeds: Sequence[bytes], subject: str, number: int) -> bytes:
    """Return a mutant of JSON: three of four are spoilt as a tree, so that they still are JSON."""
    if number % 4 == 0:
        return mutant(seeds, subject, number)
    chance = random.Random(f"{subject} {number}")
    tree = json.loads(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3))):
        parent, key = chance.choice(list(_places(tree)))
        parent[key] = deepcopy(chance.choice(STRANGE))
    return json.dumps(tree).encode()


def _places(tree: Any) -> Any:
    """Yield every value of a tree that is not its root, as what holds it and the key."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(entries):
        yield tree, key
        yield from _places(value)


def _place(data: bytearray, chance: random.Random) -> int:
    """Return a place, more often one near the beginning, where headers are."""
    end = min(len(data), 64) if chance.random() < 0.4 else len(data)
    return chance.randrange(max(1, end))


def _flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set(data: bytearray, chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] = chance.choice(INTERESTING)


def _set_number(data: bytearray, chance: random.Random) -> None:
    width = chance.choice((2, 4))
    at = min(_place(data, chance), max(0, len(data) - width))
    number = chance.choice((0, 1, chance.getrandbits(8 * width), (1 << 8 * width) - 1, 1 << (8 * width - 1)))
    data[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))[: len(data)]


def _move(data: bytearray, chance: random.Random) -> None:
    here, there, size = _place(data, chance), _place(data, chance), chance.choice((1, 2, 4, 32))
    size = min(size, len(data) - max(here, there))
    data[there : there + size] = data[here : here + size]


def _remove(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 2, 7, 64))]


def _repeat(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = data[at : at + chance.choice((1, 2, 8, 64))] * chance.choice((1, 1, 3, 50))


def _insert(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = chance.randbytes(chance.choice((1, 2, 4, 16)))


def _cut(data: bytearray, chance: random.Random) -> None:
    if chance.random() < 0.3:
        del data[_place(data, chance) :]


IN_PLACE = (_flip, _flip, _set, _set_number, _move)
EDITS = (*IN_PLACE, _remove, _repeat, _insert, _cut)
