"""WADO-RS: stored instances, their frames, metadata, bulk data and pictures (PS3.18 10.4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from app import __version__
from app.api.dicomweb.accept import Offer, choose
from app.api.dicomweb.answers import PREFIX, Browser, BrowseRoute, base_url
from app.api.dicomweb.bodies import Body, etag, multipart, single, text, unchanged
from app.api.dicomweb.parameters import frame_numbers, quality_value, viewport_values, window_text
from app.browse import files, frames, metadata, rendered
from app.browse.bulk import read_bulk_value
from app.browse.cache import key_of
from app.browse.files import EXPLICIT_LITTLE
from app.browse.instances import NotFound, Stored
from app.model.errors import ObjectGone, PermanentError, Unrenderable
from app.model.options import RenderOptions

DICOM, OCTETS, JSON = "application/dicom", "application/octet-stream", "application/dicom+json"
IMAGES = ("image/jpeg", "image/png", "image/gif")
PDF = "application/pdf"
_JPEG = "1.2.840.10008.1.2.4"
STORED_AS = {
    **dict.fromkeys((f"{_JPEG}.{last}" for last in (50, 51, 53, 55, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"{_JPEG}.{last}" for last in (80, 81)), "image/jls"),
    **dict.fromkeys((f"{_JPEG}.{last}" for last in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"{_JPEG}.{last}" for last in (92, 93)), "image/jpx"),
    **dict.fromkeys((f"{_JPEG}.{last}" for last in (201, 202, 203)), "image/jphc"),
    **dict.fromkeys((f"{_JPEG}.{last}" for last in (110, 111, 112)), "image/jxl"),
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
"""Media types of compressed frames by transfer syntax (PS3.18 Table 8.7.3-5)."""

router = APIRouter(prefix=PREFIX, route_class=BrowseRoute)

STUDY = "/studies/{study}"
SERIES = STUDY + "/series/{series}"
INSTANCE = SERIES + "/instances/{instance}"
FRAMES = INSTANCE + "/frames/{numbers}"
BULK = INSTANCE + "/bulkdata/{tag}"
NOT_FOUND: dict[int | str, dict[str, str]] = {
    304: {"description": "The client has it already"},
    404: {"description": "There is no such resource"},
    406: {"description": "It cannot be had in an accepted media type or transfer syntax"},
}


class Asked:
    """A request for stored instances: which parts, and which media types the client accepts.

    numbers: frames as the path names them. tag, number: a value of bulk data.
    """

    numbers: str | None = None
    tag, number = "", "1"

    def __init__(
        self, request: Request, accept: Sequence[str], study: str, series: str = "", instance: str = ""
    ) -> None:
        self.request = request
        self.browser: Browser = request.app.state.browser
        self.base = base_url(request)
        self.study, self.series, self.instance = study, series, instance
        self._accept = request.headers.getlist("accept"), accept

    def choose(self, offers: Sequence[Offer]) -> Offer:
        """Return the offer that the client prefers; raises NotAcceptable."""
        return choose(offers, *self._accept)

    def one(self) -> Stored:
        """Return the requested instance."""
        return self.browser.instances.one(self.study, self.series, self.instance)

    def found(self) -> list[Stored]:
        """Return the instances of the requested study or series, or the one instance."""
        if self.instance:
            return [self.one()]
        return self.browser.instances.find(self.study, self.series or None)


Accepts = Annotated[
    list[str],
    Query(alias="accept", default_factory=list, description="media types, before those of the header"),
]
Viewport = Annotated[str | None, Query(description="vw,vh or vw,vh,sx,sy,sw,sh")]


async def of_study(request: Request, accept: Accepts, study: str) -> None:
    """Say what the path of a study names."""
    request.state.asked = Asked(request, accept, study)


async def of_series(request: Request, accept: Accepts, study: str, series: str) -> None:
    """Say what the path of a series names."""
    request.state.asked = Asked(request, accept, study, series)


async def of_instance(request: Request, accept: Accepts, study: str, series: str, instance: str) -> None:
    """Say what the path of an instance names."""
    request.state.asked = Asked(request, accept, study, series, instance)


async def of_frames(request: Request, numbers: str) -> None:
    """Say which frames the path names; after `of_instance`."""
    request.state.asked.numbers = numbers


async def of_value(request: Request, tag: str) -> None:
    """Say which value the path names; after `of_instance`."""
    request.state.asked.tag = tag.upper()


async def of_further_value(request: Request, number: str) -> None:
    """Say which of the values of the tag the path names; after `of_value`."""
    request.state.asked.number = number


# ------------------------------------------------------------------------------------------ DICOM files


def _file_offers(stored: Stored, alone: bool) -> list[Offer]:
    """Return the forms of an instance as DICOM, the default first."""
    own, lossy = files.as_stored(stored), files.stays_compressed(stored)
    syntaxes = [(EXPLICIT_LITTLE, not lossy, not own)] if files.can_decode(stored) else []
    if own == EXPLICIT_LITTLE:
        syntaxes = [(own, True, True)]
    elif own:
        syntaxes.insert(0 if lossy else 1, (own, lossy, True))
    return [
        Offer(DICOM, many, syntax, is_default, any_)
        for many in ((True, False) if alone else (True,))
        for syntax, is_default, any_ in syntaxes
    ]


def _file_part(asked: Asked, stored: Stored, syntax: str) -> Body:
    originals = asked.browser.originals
    found = files.open_file(stored, syntax, originals)
    content_type = f"{DICOM}; transfer-syntax={found.transfer_syntax}"
    return Body(content_type, found.size, partial(found.pieces, originals), f"{asked.base}/{stored.path}")


def _file_parts(asked: Asked, chosen: Sequence[tuple[Stored, str]]) -> Iterator[Body]:
    """Yield files; one of several that cannot be decoded comes as it is stored, and says so."""
    for stored, syntax in chosen:
        try:
            yield _file_part(asked, stored, syntax)
        except PermanentError:
            own = files.as_stored(stored)
            if len(chosen) == 1 or own in ("", syntax):
                raise
            yield _file_part(asked, stored, own)


def retrieve(request: Request) -> Response:
    """Return all instances of a study, of a series, or one, as DICOM files."""
    asked: Asked = request.state.asked
    found = asked.found()
    choices: dict[str | None, Offer] = {}
    for one in found:
        if one.transfer_syntax_uid not in choices:
            choices[one.transfer_syntax_uid] = asked.choose(_file_offers(one, alone=bool(asked.instance)))
    chosen = [(one, choices[one.transfer_syntax_uid].transfer_syntax) for one in found]
    many = choices[found[0].transfer_syntax_uid].multipart
    key = key_of([__version__, many, *((one.row_id, syntax) for one, syntax in chosen)])
    tag = etag(key, weak=many)
    if answer := unchanged(request, tag):
        return answer
    if many:
        return multipart(request, DICOM, _file_parts(asked, chosen), tag)
    return single(request, _file_part(asked, *chosen[0]), tag)


# -------------------------------------------------------------------------------------------- metadata


def retrieve_metadata(request: Request) -> Response:
    """Return the data sets of a study, of a series, or of one instance, as DICOM JSON."""
    asked: Asked = request.state.asked
    chosen = asked.choose((Offer(JSON), Offer("application/json")))
    found = asked.found()
    tag = etag(key_of([metadata.documents_key(found), asked.base, chosen.media_type]), weak=True)
    if answer := unchanged(request, tag):
        return answer
    originals = asked.browser.originals
    if asked.instance:
        pieces = iter([metadata.document(found[0], asked.base, originals)])
    else:
        pieces = metadata.documents(found, asked.base, originals)
    return text(request, chosen.media_type, pieces, tag, originals.cache)


# ---------------------------------------------------------------------------------------------- frames


def _frame_offers(stored: Stored, alone: bool) -> list[Offer]:
    """Return the forms of the frames of an instance, the default first."""
    own = stored.transfer_syntax_uid or ""
    native = own in (*files.NEVER, EXPLICIT_LITTLE, "1.2.840.10008.1.2.1.99")
    offers = []
    for many in (True, False) if alone else (True,):
        if native or files.can_decode(stored):
            offers.append(Offer(OCTETS, many, EXPLICIT_LITTLE, True, native))
        if not native:
            offers.append(Offer(OCTETS, many, own, not files.can_decode(stored)))
            if own in STORED_AS:
                offers.append(Offer(STORED_AS[own], many, own))
    return offers


def _frame_part(asked: Asked, stored: Stored, number: int, chosen: Offer) -> Body:
    originals = asked.browser.originals
    native = chosen.transfer_syntax == EXPLICIT_LITTLE
    found = frames.read_frame(stored, number - 1, native, originals)
    content_type = f"{chosen.media_type}; transfer-syntax={found.transfer_syntax}"
    location = f"{asked.base}/{stored.path}/frames/{number}"
    return Body(content_type, found.length, partial(found.pieces, originals), location)


def _frames(asked: Asked, stored: Stored, numbers: Sequence[int]) -> Response:
    chosen = asked.choose(_frame_offers(stored, alone=len(numbers) == 1))
    key = key_of([__version__, stored.row_id, chosen, *numbers])
    tag = etag(key, weak=chosen.multipart)
    if answer := unchanged(asked.request, tag):
        return answer
    if not all(1 <= number <= stored.frames for number in numbers):
        raise NotFound("the instance has no such frame")
    if not chosen.multipart:
        return single(asked.request, _frame_part(asked, stored, numbers[0], chosen), tag)
    parts = (_frame_part(asked, stored, number, chosen) for number in numbers)
    return multipart(asked.request, chosen.media_type, parts, tag)


def retrieve_frames(request: Request) -> Response:
    """Return frames by their numbers, from 1, in the requested order."""
    asked: Asked = request.state.asked
    wanted = frame_numbers(asked.numbers or "")
    return _frames(asked, asked.one(), wanted)


def retrieve_pixel_data(request: Request) -> Response:
    """Return all frames of an instance."""
    asked: Asked = request.state.asked
    stored = asked.one()
    return _frames(asked, stored, range(1, stored.frames + 1))


# ------------------------------------------------------------------------------------------- bulk data


def retrieve_bulk_data(request: Request) -> Response:
    """Return a value that the metadata name by this URL: of its tag the first, or the one of a number."""
    asked: Asked = request.state.asked
    stored, tag = asked.one(), asked.tag
    number = int(asked.number) if re.fullmatch(r"[0-9]{1,9}", asked.number) else 0
    compressed = stored.transfer_syntax_uid not in (
        *files.NEVER,
        None,
        EXPLICIT_LITTLE,
        "1.2.840.10008.1.2.1.99",
    )
    if tag == "7FE00010" and number == 1 and compressed:
        return _frames(asked, stored, range(1, stored.frames + 1))
    chosen = asked.choose((Offer(OCTETS), Offer(OCTETS, multipart=True)))
    entity = etag(key_of([__version__, stored.row_id, tag, number, chosen.multipart]), weak=chosen.multipart)
    if answer := unchanged(request, entity):
        return answer
    originals = asked.browser.originals
    value = read_bulk_value(stored, tag, number, originals)
    location = f"{asked.base}/{stored.path}/bulkdata/{tag}{'' if number == 1 else f'/{number}'}"
    body = Body(OCTETS, value.size, partial(value.pieces, originals), location)
    if chosen.multipart:
        return multipart(request, OCTETS, iter([body]), entity)
    return single(request, body, entity)


# -------------------------------------------------------------------------------------------- pictures


def _image_offers(found: Sequence[Stored], multiple: bool) -> list[Offer]:
    """Return the forms of pictures, the default first; the document of a PDF only to those who name it."""
    one = [] if multiple else [Offer(image) for image in IMAGES]
    documents = [] if multiple or found[0].rows is not None else [Offer(PDF)]
    return [*one, *documents, *(Offer(image, multipart=True) for image in IMAGES)]


def _picture_part(asked: Asked, stored: Stored, how: RenderOptions, window: str | None) -> Body:
    data = rendered.render_picture(stored, how, window, asked.browser.originals)
    frame = "" if how.frame is None else f"/frames/{how.frame + 1}"
    return _made(data, how.media_type, f"{asked.base}/{stored.path}{frame}/rendered")


def _made(data: bytes, media_type: str, location: str = "") -> Body:
    def pieces(offset: int, length: int | None) -> Iterator[bytes]:
        yield data[offset : None if length is None else offset + length]

    return Body(media_type, len(data), pieces, location)


def _pictures(
    asked: Asked, found: Sequence[Stored], how: RenderOptions, window: str | None
) -> Iterator[Body]:
    """Yield pictures of all instances that have any."""
    count = 0
    for one in found:
        try:
            yield _picture_part(asked, one, how, window)
            count += 1
        except (Unrenderable, ObjectGone):
            continue
    if not count:
        raise NotFound("there is nothing to draw")


def retrieve_rendered(
    request: Request,
    window: Annotated[str | None, Query(description="centre,width,function")] = None,
    viewport: Viewport = None,
    quality: Annotated[str | None, Query(description="of a JPEG, 1 to 100")] = None,
) -> Response:
    """Return pictures of a study, a series, an instance or frames, drawn as the parameters say."""
    asked: Asked = request.state.asked
    how = RenderOptions()
    if viewport is not None:
        corner, region = viewport_values(viewport, rendered.MAX_SIDE)
        how = replace(how, viewport=corner, region=region)
    if quality is not None:
        how = replace(how, quality=quality_value(quality))
    shown = None if window is None else window_text(window)
    wanted = None if asked.numbers is None else frame_numbers(asked.numbers)
    found = asked.found()
    several = not asked.instance or (wanted is not None and len(wanted) > 1)
    chosen = asked.choose(_image_offers(found, several))
    how = replace(how, media_type=chosen.media_type)
    settings = asked.browser.originals.options.preview
    rows = (one.row_id for one in found)
    tag = etag(
        key_of([__version__, settings, how, shown, chosen.multipart, wanted, *rows]), weak=chosen.multipart
    )
    if answer := unchanged(request, tag):
        return answer
    if wanted is not None:
        if not all(1 <= number <= found[0].frames for number in wanted):
            raise NotFound("the instance has no such frame")
        parts: Iterator[Body] = (
            _picture_part(asked, found[0], replace(how, frame=number - 1), shown) for number in wanted
        )
    elif asked.instance:
        parts = iter([_picture_part(asked, found[0], how, shown)])
    else:
        parts = _pictures(asked, found, how, shown)
    if chosen.multipart:
        return multipart(request, chosen.media_type, parts, tag)
    return single(request, next(iter(parts)), tag)


def retrieve_thumbnail(request: Request, viewport: Viewport = None) -> Response:
    """Return a small picture of a study, a series, an instance or a frame."""
    asked: Asked = request.state.asked
    chosen = asked.choose([Offer(image) for image in IMAGES])
    how = RenderOptions(media_type=chosen.media_type, quality=80)
    if viewport is not None:
        how = replace(how, viewport=viewport_values(viewport, rendered.MAX_SIDE)[0])
    found = _representative(asked.found())
    if asked.numbers is not None:
        (number, *_) = frame_numbers(asked.numbers)
        if not 1 <= number <= found.frames:
            raise NotFound("the instance has no such frame")
        how = replace(how, frame=number - 1)
    tag = etag(key_of([__version__, "thumbnail", asked.browser.originals.options.preview, how, found.row_id]))
    if answer := unchanged(request, tag):
        return answer
    data = rendered.thumbnail(found, how, asked.browser.originals)
    return single(request, _made(data, how.media_type), tag)


def _representative(found: Sequence[Stored]) -> Stored:
    """Return the instance in the middle of the first series that has pictures."""
    shown = [one for one in found if one.preview_uri] or list(found)
    first = [one for one in shown if one.series_instance_uid == shown[0].series_instance_uid]
    return first[len(first) // 2]


def _add(path: str, endpoint: Callable[..., Response], summary: str, *says: Callable[..., object]) -> None:
    told = partial(router.add_api_route, path, endpoint, response_class=Response)
    said = [Depends(say) for say in says]
    told(methods=["GET"], summary=summary, responses=NOT_FOUND, dependencies=said)
    told(methods=["HEAD"], include_in_schema=False, dependencies=said)


for _path, _word, _says in (
    (STUDY, "study", of_study),
    (SERIES, "series", of_series),
    (INSTANCE, "instance", of_instance),
):
    _add(_path, retrieve, f"The {_word} as DICOM files", _says)
    _add(f"{_path}/metadata", retrieve_metadata, f"The metadata of the {_word}", _says)
    _add(f"{_path}/rendered", retrieve_rendered, f"Pictures of the {_word}", _says)
    _add(f"{_path}/thumbnail", retrieve_thumbnail, f"A thumbnail of the {_word}", _says)
_add(FRAMES, retrieve_frames, "Frames of the instance", of_instance, of_frames)
_add(f"{FRAMES}/rendered", retrieve_rendered, "Pictures of frames", of_instance, of_frames)
_add(f"{FRAMES}/thumbnail", retrieve_thumbnail, "A thumbnail of a frame", of_instance, of_frames)
_add(f"{INSTANCE}/pixeldata", retrieve_pixel_data, "All frames of the instance", of_instance)
_add(BULK, retrieve_bulk_data, "One long value", of_instance, of_value)
_add(
    f"{BULK}/{{number}}",
    retrieve_bulk_data,
    "One of several long values",
    of_instance,
    of_value,
    of_further_value,
)
