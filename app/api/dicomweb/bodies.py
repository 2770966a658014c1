"""Answers with bytes: conditional, in ranges, compressed, multipart, and streamed if they are large."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from isal import isal_zlib

from app.browse.cache import Cache

JOINED_BYTES = 8 << 20
"""Up to this size a body is sent whole."""
LENGTH_BYTES = 32 << 20
"""Above this size an answer has no Content-Length, because Cloud Run accepts such answers only in chunks."""
GZIP_BITS, GZIP_LEVEL, GZIP_MIN_BYTES = 31, 1, 1024
_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.ASCII)
_SALT = secrets.token_bytes(16)

Pieces = Callable[[int, int | None], Iterator[bytes]]
"""Offset and length (None: to the end) -> the bytes in pieces."""


@dataclass(frozen=True, slots=True)
class Body:
    """One representation; size is None if it is only known after sending."""

    content_type: str
    size: int | None
    pieces: Pieces
    location: str = ""


def etag(key: str, *, weak: bool = False) -> str:
    """Return the entity tag for a key."""
    return f'{"W/" if weak else ""}"{key}"'


def unchanged(request: Request, tag: str) -> Response | None:
    """Return 304 if the client already has the current representation (RFC 9110 13.1.2)."""
    given = [one.strip() for value in request.headers.getlist("if-none-match") for one in value.split(",")]
    if "*" in given or any(one.removeprefix("W/") == tag.removeprefix("W/") for one in given):
        return Response(status_code=304, headers=headers_of(tag))
    return None


def headers_of(tag: str, vary: str = "Accept") -> dict[str, str]:
    """Return the headers of about patients: only the client may cache them, and it must revalidate."""
    return {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": vary}


def single(request: Request, body: Body, tag: str) -> Response:
    """Answer with one body, or the requested range of it (RFC 9110 14)."""
    headers = headers_of(tag) | {"Content-Type": body.content_type}
    if body.location:
        headers["Content-Location"] = body.location
    if body.size is None:
        return _sent(request, 200, headers, None, body.pieces(0, None))
    headers["Accept-Ranges"] = "bytes"
    span = _span(request, body.size, tag)
    if span is None:
        return _sent(request, 200, headers, body.size, body.pieces(0, body.size))
    begin, end = span
    if begin >= end:
        headers["Content-Range"] = f"bytes */{body.size}"
        return Response(status_code=416, headers=headers)
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{body.size}"
    return _sent(request, 206, headers, end - begin, body.pieces(begin, end - begin))


def multipart(request: Request, media_type: str, parts: Iterator[Body], tag: str) -> Response:
    """Answer with one part after the other (PS3.18 8.6.1.2).

    The first part is made before the answer begins, so that its failure has its own status. A later failure
    cuts the answer off: the closing boundary and the last chunk are missing then.
    """
    first = next(parts)
    boundary = sha256(_SALT + tag.encode()).hexdigest()[:32]
    headers = headers_of(tag)
    headers["Content-Type"] = f'multipart/related; type="{media_type}"; boundary={boundary}'
    second = next(parts, None)
    if second is None and first.size is not None:
        head, tail = _part_head(first, boundary), f"\r\n--{boundary}--\r\n".encode()
        size = len(head) + first.size + len(tail)
        pieces = chain([head], first.pieces(0, None), [tail])
        return _sent(request, 200, headers, size, pieces)
    bodies = chain([first], [second] if second else [], parts)
    return _sent(request, 200, headers, None, _framed(bodies, boundary))


def text(request: Request, content_type: str, pieces: Iterator[bytes], tag: str, cache: Cache) -> Response:
    """Answer with text, compressed if the client accepts gzip; a body of a few MiB is cached in memory."""
    headers = headers_of(tag, "Accept, Accept-Encoding") | {"Content-Type": content_type}
    if request.method == "HEAD":
        return Response(headers=headers)
    name = f"{tag}{' gzip' * takes_gzip(request)}"
    if (body := cache.get("", name, stored=False)) is not None:
        return Response(body, headers=headers | _coding(body))
    gathered, size = [], 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size > JOINED_BYTES:
            break
    whole = size <= JOINED_BYTES
    sent: Iterator[bytes] = chain(gathered, pieces)
    if takes_gzip(request) and size >= GZIP_MIN_BYTES:
        headers["Content-Encoding"] = "gzip"
        sent = _gzipped(sent)
    if not whole:
        return StreamingResponse(sent, 200, headers)
    body = b"".join(sent)
    cache.put("", name, body, content_type, stored=False)
    return Response(body, headers=headers)


def takes_gzip(request: Request) -> bool:
    """Return whether the client accepts a compressed answer (RFC 9110 12.5.3)."""
    told = ",".join(request.headers.getlist("accept-encoding"))
    for one in told.lower().split(","):
        coding, _, rest = one.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*") and not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", rest):
            return True
    return False


def _coding(body: bytes) -> dict[str, str]:
    """Return the header of a cached body; no JSON begins as gzip does."""
    return {"Content-Encoding": "gzip"} if body.startswith(b"\x1f\x8b") else {}


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    packer = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, GZIP_BITS)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _sent(
    request: Request, status: int, headers: Mapping[str, str], size: int | None, pieces: Iterator[bytes]
) -> Response:
    told = dict(headers)
    if size is not None and size <= LENGTH_BYTES:
        told["Content-Length"] = str(size)
    if request.method == "HEAD":
        return Response(status_code=status, headers=told)
    if size is not None and size <= JOINED_BYTES:
        return Response(b"".join(pieces), status, told)
    return StreamingResponse(pieces, status, told)


def _span(request: Request, size: int, tag: str) -> tuple[int, int] | None:
    """Return the requested range, empty if it cannot be satisfied; None for the whole body.

    A request for several ranges gets the whole body, as RFC 9110 14.2 allows.
    """
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if not found or not (found[1] or found[2]) or request.headers.get("if-range", tag) != tag:
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size if int(found[2]) else 0
    begin, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
    if found[2] and int(found[2]) < begin:
        return None
    return begin, end


def _part_head(body: Body, boundary: str) -> bytes:
    location = f"Content-Location: {body.location}\r\n" if body.location else ""
    return f"--{boundary}\r\nContent-Type: {body.content_type}\r\n{location}\r\n".encode()


def _framed(parts: Iterator[Body], boundary: str) -> Iterator[bytes]:
    for body in parts:
        yield _part_head(body, boundary)
        yield from body.pieces(0, None)
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
