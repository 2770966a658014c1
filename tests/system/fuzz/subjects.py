"""Everything that is fuzzed: codestreams, documents, drawings, data sets, archives and events."""

from __future__ import annotations

import gzip
import json
import time
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from io import BytesIO

from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from app import archive, events
from app.archive.gzip import GZIP_MAGIC
from app.dicom import describe
from app.dicom.render.preview import preview
from app.model.errors import BadArchive
from app.model.listing import Refused
from app.model.options import ArchiveLimits, DescribeOptions, PreviewOptions
from app.model.values import Instance
from tests import data
from tests.archives import tarred, tgz, zipped
from tests.dicom.pages.test_pdf import RED_BELOW, document, pdf
from tests.events.test_events import ATTRIBUTES, CE, RESOURCE, binary, push
from tests.system.fuzz.codestreams import CODESTREAMS, PNG
from tests.system.fuzz.drawings import draw_file, drawings
from tests.system.fuzz.mutate import json_mutant, mutant
from tests.system.fuzz.subject import Subject

PLAIN = DescribeOptions(preview=PreviewOptions(enabled=False))
LIMITS = ArchiveLimits(max_member_bytes=16 << 20, max_total_bytes=64 << 20)
JSON = {"content-type": "application/json"}
NOON = time.struct_time((2026, 1, 2, 12, 0, 0, 4, 2, 0))
FLATE = b"/Filter/FlateDecode"
LETTERS = b"BT /F1 24 Tf 10 100 Td (lake) Tj ET"


def drawn_page(mutant: bytes) -> str:
    """Draw the first page of a PDF."""
    assert preview(document(mutant), PreviewOptions(max_side=100)).startswith(PNG)
    return "drawn"


def described(mutant: bytes) -> str:
    """Describe a file without its preview: the JSON must be JSON for any reader."""
    instance = describe(data.content(mutant), PLAIN)
    for text in (instance.document, instance.metadata):
        json.loads(text, parse_constant=_refuse)
    return "described"


def _refuse(constant: str) -> None:
    raise AssertionError("not JSON")


def unpacked(mutant: bytes) -> str:
    """List an archive and describe its members, as the service does but all in one process."""
    content = data.content(mutant, "gs://landing/x.zip")
    if not archive.is_archive(content):
        return described(mutant)
    listing = archive.list_members(content, LIMITS)
    found: list[Instance | Refused] = []
    for batch in archive.batches(listing):
        part = archive.part(content, listing.kind, batch)
        found += archive.describe_members(describe, part, PLAIN, LIMITS)
    # Every fault of a member has a code of its own; the general one is of an error that nobody foresaw.
    assert not any(isinstance(one, Refused) and one.code == BadArchive.code for one in found)
    if listing.fault or not any(isinstance(one, Instance) for one in found):
        raise BadArchive("not all of it is read", code=listing.fault or "no_member")
    return "members"


def event(mutant: bytes) -> str:
    """Read headers and body of a request; what is not both is a body alone."""
    headers, body = JSON, mutant
    with suppress(ValueError, RecursionError):
        request = json.loads(mutant)
        if isinstance(request, dict) and isinstance(request.get("headers"), dict):
            headers = {name: str(value) for name, value in request["headers"].items()}
            body = json.dumps(request.get("body")).encode()
    return str(events.object_event(events.message_from_request(headers, body)).type.value)


@cache
def _documents() -> tuple[bytes, ...]:
    picture = BytesIO()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(
        picture, "PDF", creationDate=NOON, modDate=NOON
    )
    packed = zlib.compress(RED_BELOW + b" " + LETTERS)
    flate = pdf(packed).replace(b"/Length %d" % len(packed), b"/Length %d%b" % (len(packed), FLATE))
    return pdf(RED_BELOW, b""), pdf(LETTERS), flate, picture.getvalue()


@cache
def _files() -> tuple[bytes, ...]:
    made = (data.ct(), data.enhanced(), data.sr(), data.with_private(), data.minimal())
    native = (data.ct(ExplicitVRBigEndian), data.ct(DeflatedExplicitVRLittleEndian))
    return *made, *native, data.bare(data.ct_dataset())


def _preamble(file: bytes) -> int:
    return 132 if file[128:132] == b"DICM" else 0


@cache
def _archives() -> tuple[bytes, ...]:
    members = [("a/1.dcm", data.minimal()), ("a/2.dcm", data.ct())]
    stored = zipped(members, zipfile.ZIP_STORED)
    return zipped(members), stored, tarred(members), tgz(members), gzip.compress(data.ct(), mtime=0)


def _spoilt_archive(seeds: Sequence[bytes], subject: str, number: int) -> bytes:
    """Return a mutant; every fourth is spoilt before it is put into a gzip, whose checksum then holds."""
    if number % 4:
        return mutant(seeds, subject, number)
    inner = [gzip.decompress(seed) for seed in seeds if seed.startswith(GZIP_MAGIC)]
    return gzip.compress(mutant(inner, subject, number), mtime=0)


@cache
def _requests() -> tuple[bytes, ...]:
    """Return an event in every form that the service takes."""
    unwrapped = JSON | {"x-goog-pubsub-message-id": "2", **ATTRIBUTES}
    forms = (
        (JSON, push(deliveryAttempt=3)),
        (unwrapped, RESOURCE),
        (binary(CE, **JSON), RESOURCE),
        ({"content-type": "application/cloudevents+json"}, CE | {"data": RESOURCE}),
    )
    return tuple(json.dumps({"headers": headers, "body": body}).encode() for headers, body in forms)


SUBJECTS: dict[str, Subject] = CODESTREAMS | {
    "pdf": Subject(_documents, drawn_page, ("app.dicom.pages.pdf:_render",)),
    "drawing": Subject(
        drawings, draw_file, ("app.dicom.render.preview:picture",), spoil=partial(mutant, head=_preamble)
    ),
    "metadata": Subject(
        _files,
        described,
        ("app.dicom.metadata.dicom_json:to_metadata",),
        spoil=partial(mutant, head=_preamble),
    ),
    "archive": Subject(_archives, unpacked, ("app.archive:unpack",), spoil=_spoilt_archive),
    "event": Subject(_requests, event, ("app.events:object_event",), spoil=json_mutant),
}
