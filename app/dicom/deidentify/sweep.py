"""Remove the known identifiers of a data set from text that the table leaves alone.

An identifier is found however it is written: in another case, without accents, glued to other letters,
spaced, or with other punctuation; a date also in the usual orders. Short ones must stand alone, since any
text contains them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date

from app.dicom.deidentify.table import VOCABULARY

WORDS = re.compile(r"[^\W_]+")
GLUED, ALONE, LEAST = 5, 3, 2
"""Minimum letters of an identifier to count inside a longer word; as a word of its own; to count at all."""
LONG = 8
"""Minimum letters to count inside longer words if it is spaced: a match by chance is unlikely then."""
LATIN = "\u2000"
"""Below this character accents are marks on letters, which many systems leave out."""
PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "ı": "i"})
WRITTEN_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
IDEOGRAPHS = "\u2e80"
"""From this character on, each is a syllable or a word, and counts as two letters."""
TITLES = frozenset(
    [
        "dr",
        "prof",
        "mr",
        "mrs",
        "ms",
        "miss",
        "md",
        "phd",
        "jr",
        "sr",
        "ii",
        "iii",
        "van",
        "von",
        "der",
        "den",
        "de",
        "la",
        "le",
        "el",
        "al",
        "bin",
    ]
)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = "|".join(MONTHS)
DAY = re.compile(
    r"(?<!\d)(?:(?P<y>\d{4})(?P<s>[-/._] ?| )(?P<m>\d\d?)(?P=s)(?P<d>\d\d?)"
    r"|(?P<y1>\d{4})(?P<m1>\d\d)(?P<d1>\d\d)(?:\d{4}|\d{6})?"
    r"|(?P<a>\d\d?)(?P<t>[-/._] ?| )(?P<b>\d\d?)(?P=t)(?P<c>\d{4}|\d\d)"
    r"|(?P<a1>\d\d)(?P<b1>\d\d)(?P<c1>\d\d)"
    rf"|(?P<d2>\d\d?)[-/._ ]*(?P<n2>{_MONTH})[a-z]*[-/._, ]*(?P<y2>\d{{4}}|\d\d))(?!\d)"
    rf"|(?<![a-z])(?P<n3>{_MONTH})[a-z]*[-/._ ]*(?P<d3>\d\d?)[-/._, ]+(?P<y3>\d{{4}}|\d\d)(?!\d)",
    re.IGNORECASE,
)
"""A date in digits, with or without separators, or with the name of its month."""
UID = re.compile(r"(?<![\d.])[0-2](?:\.\d+){4,}(?!\d|\.\d)")
LEAST_UID = 14
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+|(?:https?|ftp)://\S+", re.IGNORECASE)
STANDARD_UIDS = "1.2.840.10008."
Span = tuple[int, int]


@dataclass(slots=True)
class Known:
    """What identifies the subject of one data set and the people around it.

    names: squeezed identifiers, the longest first. days: known dates. patient: those of `names` that belong
    to the patient.
    """

    names: tuple[str, ...] = ()
    patient: frozenset[str] = frozenset()
    days: frozenset[tuple[int, int, int]] = frozenset()
    _starts: dict[str, list[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._starts = {}
        for name in self.names:
            self._starts.setdefault(name[:LEAST], []).append(name)

    def inside(self, squeezed: str) -> list[str]:
        """Return the identifiers that a squeezed text contains, by a look at each pair of its letters."""
        starts = self._starts
        return [
            name
            for place in range(len(squeezed) - LEAST + 1)
            for name in starts.get(squeezed[place : place + LEAST], ())
            if squeezed.startswith(name, place)
        ]

    def spans(self, text: str, code: bool = False, days: bool = True) -> list[Span]:
        """Return where identifiers and known dates stand in a text; they may overlap.

        code: this is a coded string or the meaning of a code, in which only identifiers of the patient count,
        and none that is also a word of the standard. days: look for dates, which a code may have by chance.
        """
        found: list[Span] = []
        for name in dict.fromkeys(self.inside(squeeze(text))):
            if not code or (name in self.patient and name not in VOCABULARY):
                found += _occurrences(name, text)
        if days and self.days:
            found += self._days(text)
        return found

    def remove(self, text: str) -> str:
        """Return a text without identifiers and known dates."""
        return without(text, self.spans(text))

    def _days(self, text: str) -> Iterable[Span]:
        if not any(letter.isdigit() for letter in text):
            return
        for match in DAY.finditer(text):
            if not self.days.isdisjoint(possible_days(match)):
                yield match.span()


def squeeze(text: str) -> str:
    """Return the letters and digits of a text without case and accents."""
    return "".join(map(_folded, filter(str.isalnum, text)))


def _folded(letter: str) -> str:
    """Return a letter without case and accent; it may become two."""
    if letter >= LATIN or letter.isascii():
        return letter.casefold()
    parts = unicodedata.normalize("NFKD", letter.casefold().translate(PLAIN))
    return "".join(part for part in parts if part.isalnum())


def without(text: str, spans: Iterable[Span]) -> str:
    """Return a text without some parts, and without the spaces they leave at its ends or side by side."""
    kept, position = [], 0
    ordered = sorted(spans)
    if not ordered:
        return text
    for begin, end in ordered:
        kept.append(text[position:begin])
        position = max(position, end)
    return re.sub(r" {2,}", " ", "".join([*kept, text[position:]])).strip(" ^=")


def identifiers(values: Iterable[str]) -> set[str]:
    """Return the squeezed identifiers in some names or numbers: each whole, and its longer words.

    One with accents is also returned with them, as it appears in bytes that are not text.
    """
    found = set()
    for value in values:
        for word in (value, *re.split(r"[\^=]+", value), *re.split(r"[\s^=,;\\/]+", value)):
            found |= {squeeze(word), "".join(filter(str.isalnum, word)).casefold()}
    return {
        name
        for name in found
        if len(name) >= LEAST and _weight(name) >= ALONE and name not in TITLES and not _common(name)
    }


def person_spellings(name: str) -> tuple[str, ...]:
    """Return a person's name as it may be written: also by its parts, and with its umlauts written out.

    A name with digits is a number, as of a trial's subject: its parts are words of the trial.
    """
    whole = unicodedata.normalize("NFC", name)
    apart = whole if any(map(str.isdigit, whole)) else re.sub(r"[-'\u2019]", " ", whole)
    return (whole, apart, whole.casefold().translate(WRITTEN_OUT), apart.casefold().translate(WRITTEN_OUT))


def possible_days(match: re.Match[str]) -> set[tuple[int, int, int]]:
    """Return the dates (year, month, day) that a text found by DAY can mean; of two digits both centuries."""
    part = {name[0]: text for name, text in match.groupdict().items() if text}
    if "n" in part:
        orders = [(part["y"], str(MONTHS.index(part["n"].lower()) + 1), part["d"])]
    elif "y" in part:
        orders = [(part["y"], part["m"], part["d"])]
        if match["y1"]:  # eight digits may begin with the day
            first, second, last = match["y1"][:2], match["y1"][2:], match["m1"] + match["d1"]
            orders += [(last, second, first), (last, first, second)]
    else:
        first, second, last = part["a"], part["b"], part["c"]
        orders = [(last, second, first), (last, first, second)]
        if len(last) == 2:
            orders.append((first, second, last))
    found = set()
    for year, month_text, day in orders:
        years = (int(year),) if len(year) == 4 else (1900 + int(year), 2000 + int(year))
        for one in years:
            try:
                found.add((one, (when := date(one, int(month_text), int(day))).month, when.day))
            except ValueError:
                continue
    return found


def remove_days(text: str) -> str:
    """Return a text without any date written with separators or a month's name.

    Numbers between low lines are parameters more often than dates, unless one is a year.
    """
    found = []
    for match in DAY.finditer(text):
        is_number = match.group().replace("_", "").isdigit()
        if not is_number or ("_" in match.group() and re.search(r"\d{4}", match.group())):
            found.append(match)
    return without(text, [match.span() for match in found if possible_days(match)])


def remove_addresses(text: str) -> str:
    """Return a text without mail and web addresses."""
    return ADDRESS.sub("", text)


def replace_uids(text: str, replacement: Callable[[str], str]) -> str:
    """Return a text in which UIDs that the standard does not define are replaced."""

    def other(match: re.Match[str]) -> str:
        uid = match.group()
        plain = len(uid) < LEAST_UID or uid.startswith(STANDARD_UIDS)
        return uid if plain else replacement(uid)

    return UID.sub(other, text)


def keep_known_words(text: str) -> str:
    """Return the words of a description that are in the vocabulary, and its short numbers.

    A word with digits is judged by its letters: `T2` and `3D` stay, `ZQ8K7` is removed.
    """

    def one(match: re.Match[str]) -> str:
        word = match.group().casefold()
        letters = re.sub(r"\d+", " ", word).split()
        short = all(len(digits) <= 3 for digits in re.findall(r"\d+", word))
        known = word in VOCABULARY or (
            short and all(len(part) == 1 or part in VOCABULARY for part in letters)
        )
        return match.group() if known and (len(letters) <= 2 or word in VOCABULARY) else ""

    kept = WORDS.sub(one, text)
    return re.sub(r"\s{2,}", " ", re.sub(r"(?:(?<=\s)|^)[^\w\s]+(?=\s|$)", "", kept)).strip()


def _weight(name: str) -> int:
    return sum(2 if letter >= IDEOGRAPHS else 1 for letter in name)


def _common(name: str) -> bool:
    """Return whether an identifier is too common to look for: a number of up to three digits, zeros, x's."""
    return (name.isdigit() and (len(name) <= ALONE or not name.strip("0"))) or not name.strip("x")


def _occurrences(name: str, text: str) -> Iterable[Span]:
    """Yield where an identifier stands in a text, letter by letter without case and separators."""
    letters, places = [], []
    for place, letter in enumerate(text):
        if letter.isalnum():
            folded = _folded(letter)
            letters.append(folded)
            places += [place] * len(folded)
    squeezed = "".join(letters)
    glued = _weight(name) >= GLUED
    start = squeezed.find(name)
    while start >= 0:
        begin, end = places[start], places[start + len(name) - 1] + 1
        bounded = _is_bound(text, begin, name) and _is_bound(text, end, name)
        whole = end - begin <= len(name) or _weight(name) >= LONG or not name.isalpha()
        if bounded or (glued and whole and not name.isdigit()):
            yield begin, end
        start = squeezed.find(name, start + 1)


def _is_bound(text: str, place: int, name: str) -> bool:
    """Return whether a word ends or begins before this place; a change between digits and letters counts."""
    if not 0 < place < len(text):
        return True
    before, after = text[place - 1], text[place]
    if not (before.isalnum() and after.isalnum()) or max(before, after) >= IDEOGRAPHS:
        return True
    return before.isdigit() != after.isdigit()
