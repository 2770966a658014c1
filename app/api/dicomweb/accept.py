"""Pure: choose the media type of an answer by what a client accepts (PS3.18 8.7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.model.errors import DicomlakeError

MULTIPART = "multipart/related"
MAX_ALTERNATIVES = 200
"""Alternatives of one request that are read; viewers send about thirty."""

# A media type without its parameters, or one parameter; a quoted value may contain commas and semicolons.
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_MEDIA_TYPE = re.compile(rf"\s*({_WORD})/({_WORD})\s*", re.ASCII)
_PARAMETER = re.compile(rf';\s*(?:({_WORD})\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*))?\s*', re.ASCII)
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


class NotAcceptable(DicomlakeError):
    """None of the media types that the resource has is accepted."""

    code = "not_acceptable"


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One alternative that a client accepts; all in lower case but the values of parameters.

    media_type: as `image/png`, `image/*`, `*/*`. parameters: without `q`. quality: 0 to 1.
    """

    media_type: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    quality: float = 1.0


@dataclass(frozen=True, slots=True)
class Offer:
    """One form in which a resource can be answered.

    media_type: of the body, or of the parts of a multipart body.
    transfer_syntax: UID, or empty for media types that have none; then the parameter is ignored.
    is_default_syntax: a client that names no transfer syntax gets this one.
    matches_any: `transfer-syntax=*` may choose it.
    """

    media_type: str
    multipart: bool = False
    transfer_syntax: str = ""
    is_default_syntax: bool = True
    matches_any: bool = True


def choose(offers: Sequence[Offer], accept: Iterable[str], query: Iterable[str] = ()) -> Offer:
    """Return the offer that a client prefers.

    The highest quality wins, then the closest match, then the order in which the client names them, then that
    of the offers. The query wins over the header; the header counts if the query names nothing that is
    offered.

    Parameters
    ----------
    offers : the default first, for clients that accept anything
    accept : values of the header Accept, each a list; none of them means that anything is accepted
    query : values of the query parameter `accept`

    Raises
    ------
    NotAcceptable : no offer is accepted

    References
    ----------
    PS3.18 8.7.8, RFC 9110 12.5.1
    """
    header = [value for value in accept if value.strip()] or ["*/*"]
    for values in (query, header):
        ranges = [media_range for value in values for media_range in media_ranges(value)]
        ranked = [
            (rank, offer) for place, offer in enumerate(offers) if (rank := _rank(offer, place, ranges))
        ]
        if ranked:
            return max(ranked, key=lambda pair: pair[0])[1]
    names = dict.fromkeys(
        f'{MULTIPART}; type="{o.media_type}"' if o.multipart else o.media_type for o in offers
    )
    raise NotAcceptable(f"accept: this resource is available as {', '.join(names)}")


def media_ranges(text: str) -> Iterator[MediaRange]:
    """Yield the alternatives of a list of media ranges; malformed ones are skipped.

    Values may be quoted or not, also those in which HTTP wants quotes (PS3.18 8.7.1).
    """
    position = 0
    for _ in range(MAX_ALTERNATIVES):
        if position >= len(text):
            return
        match = _MEDIA_TYPE.match(text, position)
        parameters: dict[str, str] = {}
        end = match.end() if match else position
        while match and (parameter := _PARAMETER.match(text, end)):
            end = parameter.end()
            if parameter[1]:
                parameters.setdefault(parameter[1].lower(), _unquoted(parameter[2]))
        whole = match is not None and (end == len(text) or text[end] == ",")
        quality = parameters.pop("q", "1")
        if match and whole and _QUALITY.fullmatch(quality):
            yield MediaRange(f"{match[1]}/{match[2]}".lower(), parameters, float(quality))
        position = (text.find(",", end) + 1) or len(text)


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _rank(offer: Offer, place: int, ranges: Sequence[MediaRange]) -> tuple[float, int, int, int] | None:
    """Return how much an offer is preferred, greater is more; None if it is not accepted."""
    fits = [(fit, -number) for number, one in enumerate(ranges) if (fit := _closeness(offer, one))]
    if not fits:
        return None
    closeness, number = max(fits)  # the closest range decides, so that `*/*, image/png;q=0` refuses PNG
    quality = ranges[-number].quality
    return (quality, closeness, number, -place) if quality else None


def _closeness(offer: Offer, media_range: MediaRange) -> int:
    """Return how closely a media range describes an offer: 0 not at all, 1 as anything, more for more."""
    syntax = media_range.parameters.get("transfer-syntax", "") if offer.transfer_syntax else ""
    if syntax == "*":
        syntax_fits = offer.matches_any
    else:
        syntax_fits = syntax == offer.transfer_syntax if syntax else offer.is_default_syntax
    wanted = media_range.media_type
    closeness = _type_closeness(MULTIPART if offer.multipart else offer.media_type, wanted)
    if not closeness or not syntax_fits:
        return 0
    if offer.multipart and closeness > 1:
        part = _type_closeness(offer.media_type, media_range.parameters.get("type", "*/*").strip().lower())
        closeness = part and closeness + part
    return closeness and closeness * 2 + (syntax not in ("", "*"))


def _type_closeness(media_type: str, wanted: str) -> int:
    if wanted == media_type:
        return 3
    if wanted.endswith("/*") and wanted != "*/*":
        return 2 * media_type.startswith(wanted[:-1])
    return int(wanted == "*/*")
