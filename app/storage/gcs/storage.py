"""Objects in Cloud Storage, `gs://bucket/prefix`.

A ref holds the full name of an object in its bucket, like an event. A bare name, as in `write(name)`,
`delete(name)`, `list(prefix)` and `uri(name)`, is relative to the prefix of the URL.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from app.model.errors import BadEvent, ConfigError, ObjectGone, ShortRead, StorageUnavailable
from app.model.names import digest, suffix
from app.model.options import BIG_BYTES
from app.model.values import Content, ObjectRef
from app.storage import Landed, Listed, Publish, WatchOptions
from app.storage.checksum import checksum
from app.storage.gcs.client import DEADLINE_S, TIMEOUT_S, gcs_errors, new_client, tried
from app.storage.gcs.stream import download, stream_version, version
from app.storage.gzip_encoding import inflated

# The SDK is imported on first use, but a missing SDK must be reported when the storage is opened.
if find_spec("google.cloud.storage") is None:
    raise ModuleNotFoundError("google-cloud-storage", name="google.cloud.storage")

NAME_BYTES = 1024
PAGE_OBJECTS = 1000
CHUNK_BYTES = 8 << 20
"""Bytes in each request of an upload whose size is not known, a multiple of 256 KiB."""
MAX_LANDINGS = 5
"""Maximum attempts at an upload while others write the same object."""
MAX_ARTIFACT_BYTES = 512 << 20
CACHE_CONTROL = "private, no-store"
"""For all artifacts, because they contain patient data: no browser or proxy may cache them."""
ESCAPED = "%~"
MAX_CLOCK_SKEW = timedelta(days=1)
"""Maximum difference between the clocks of Cloud Storage and this machine."""
LIST_FIELDS = "items(name,generation),nextPageToken"
LISTED_FIELDS = "items(name,generation,metageneration,size,crc32c,storageClass),nextPageToken"

_ONCE = {"timeout": TIMEOUT_S, "retry": None}  # `tried` does the retries
_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/(.*))?", re.DOTALL)


class GcsStorage:
    """A bucket, or the objects below a prefix in it; `buckets` are further buckets that may be read.

    An overwritten version is gone, unless the bucket has versioning: then it can still be read. The SDK is
    imported, and the store contacted, on first use only.
    """

    def __init__(self, url: str, index: Path | None = None, buckets: Collection[str] = ()) -> None:
        self.bucket, self.prefix = _place(url)
        self._buckets = frozenset((self.bucket, *buckets))
        self._lock = threading.Lock()
        self._made: Any = None

    @staticmethod
    def check_settings(url: str, *_: object) -> None:
        """Raise ConfigError unless the URL is valid. Does not contact the bucket."""
        _place(url)

    def uri(self, name: str, bucket: str = "") -> str:
        """Return `gs://bucket/name`; without a bucket, `name` is relative to the prefix of the URL."""
        return f"gs://{bucket}/{name}" if bucket else f"gs://{self.bucket}/{self.prefix}{name}"

    def fetch(self, ref: ObjectRef, size: int | None = None, crc32c: str | None = None) -> Content:
        """Return the verified bytes of exactly this generation; a large object is returned as by `locate`.

        Size and checksum are those of the stored bytes, even if they are gzip. For a large object the store's
        own checksum is compared with the announced one.
        """
        self._check(ref)
        content = None if size is not None and size <= BIG_BYTES else self.locate(ref)
        if content is None or content.size <= BIG_BYTES:
            content = tried(lambda: self._whole(ref), ObjectGone)
        if size not in (None, content.size):
            raise ShortRead("the size of the object differs from the announced one")
        if crc32c not in (None, content.crc32c):
            raise ShortRead("the checksum of the object differs from the announced one")
        return content

    def locate(self, ref: ObjectRef) -> Content:
        """Return this generation for reading in ranges; only its metadata are requested now."""
        self._check(ref)
        found = self._stat(ref)
        opener = partial(stream_version, self._client(), ref, found.size)
        decode = inflated if _is_gzipped(found) else None
        uri = self.uri(ref.name, ref.bucket)
        return Content(ref, uri, found.size, found.crc32c, opener=opener, decode=decode)

    def ref_of(self, uri: str, generation: int) -> ObjectRef | None:
        """Return the version for an address; None if its bucket is not one of this storage."""
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        known = uri.startswith("gs://") and bucket in self._buckets and is_object_name(name)
        return ObjectRef(bucket, name, generation) if known else None

    def is_live(self, ref: ObjectRef, metageneration: int | None = None) -> bool:
        """Return whether this generation is still the current one; a noncurrent version is not."""
        self._check(ref)
        live = self._client().bucket(ref.bucket).blob(ref.name)
        try:
            tried(lambda: live.reload(**_ONCE), ObjectGone)
        except ObjectGone:
            return False
        same = metageneration is None or int(live.metageneration) == metageneration
        return int(live.generation) == ref.generation and same

    def had(self, ref: ObjectRef, now: datetime) -> bool:
        """Return whether this generation is not in the future: generations are times in microseconds."""
        return ref.generation <= (now + MAX_CLOCK_SKEW).timestamp() * 1_000_000

    def write(self, name: str, data: bytes | Iterable[bytes], content_type: str) -> str:
        """Store an object whole or not at all and return its URI; an illegal name is escaped."""
        full = object_name(self.prefix, name)
        kind = content_type or "application/octet-stream"
        if isinstance(data, bytes):
            tried(lambda: self._put(full, data, kind))
        else:
            _write_chunks(self._client().bucket(self.bucket).blob(full), data, kind)
        return self.uri(full, self.bucket)

    def read(self, uri: str) -> bytes:
        """Return an object that `write` stored, by its URI, with one request."""
        ref = self.ref_of(uri, 0)
        if ref is None or ref.bucket != self.bucket:
            raise ObjectGone("the address is of another storage")
        blob = self._client().bucket(self.bucket).blob(ref.name)
        return tried(lambda: download(blob, MAX_ARTIFACT_BYTES), ObjectGone)

    def stored(self, uri: str) -> Content:
        """Return an object that `write` stored, by its URI; a large one for reading in ranges."""
        ref = self.ref_of(uri, 0)
        if ref is None or ref.bucket != self.bucket:
            raise ObjectGone("the address is of another storage")
        found = tried(partial(self._client().bucket(self.bucket).get_blob, ref.name, **_ONCE))
        if found is None:
            raise ObjectGone("object version is gone")
        return self.fetch(replace(ref, generation=int(found.generation)), found.size)

    def delete(self, name: str) -> None:
        """Remove an object that `write` stored; with versioning it becomes a noncurrent version."""
        blob = self._client().bucket(self.bucket).blob(object_name(self.prefix, name))
        with suppress(ObjectGone):
            tried(lambda: blob.delete(timeout=TIMEOUT_S, retry=None), ObjectGone)

    def list(self, prefix: str = "") -> Iterator[ObjectRef]:
        """Yield the live objects below the prefix of the URL, ordered by name, with full names."""
        token = None
        while True:
            refs, token = tried(partial(_page, self._client(), self.bucket, self.prefix + prefix, token))
            yield from refs
            if not token:
                return

    def listing(self, prefix: str = "", after: str = "", bucket: str = "") -> Iterator[Listed]:
        """Yield the live objects as `list`; a generation is the time at which it was written."""
        bucket = bucket or self.bucket
        if bucket not in self._buckets:
            raise BadEvent("the listing is of a bucket that this storage may not read")
        base = self.prefix if bucket == self.bucket else ""
        token = None
        while True:
            asked = _ListRequest(bucket, base + prefix, base + after if after else "", token)
            page, token = tried(partial(_listed_page, self._client(), asked))
            yield from page
            if not token:
                return

    def land(self, name: str, stream: BinaryIO, replace: bool = False) -> Landed | None:
        """Store an upload, whole or not at all; the same bytes under the same name are not written again.

        Raises BadEvent if Cloud Storage does not allow the name.
        """
        full = self.prefix + name
        if not is_object_name(full):
            raise BadEvent("the object name is not legal")
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        digest = checksum(stream)
        bucket = self._client().bucket(self.bucket)
        generation = 0
        for _ in range(MAX_LANDINGS):
            stored = tried(partial(_stream_up, bucket.blob(full), stream, size, generation))
            if stored is not None:
                return Landed(ObjectRef(self.bucket, full, stored), written=True)
            there = tried(partial(bucket.get_blob, full, **_ONCE))
            if there is not None and (there.size, there.crc32c) == (size, digest):
                return Landed(ObjectRef(self.bucket, full, int(there.generation)), written=False)
            if there is not None and not replace:
                return None
            generation = int(there.generation) if there is not None else 0
        raise StorageUnavailable("other writers keep replacing the object")

    @property
    def session_origin(self) -> str:
        """Origin of the JSON API."""
        parts = urlsplit(self._client().api_endpoint)
        return f"{parts.scheme}://{parts.netloc}"

    def begin_upload(self, name: str, size: int, origin: str = "", replace: bool = False) -> str | None:
        """Start a resumable upload; return its URL, with which a client completes it without credentials.

        Unlike a signed URL, it needs neither the permission to sign nor CORS settings of the bucket: Cloud
        Storage allows pages of the origin in the request that started the upload.
        """
        full = self.prefix + name
        if not is_object_name(full):
            raise BadEvent("the object name is not legal")
        bucket = self._client().bucket(self.bucket)
        there = tried(partial(bucket.get_blob, full, **_ONCE))
        if there is not None and not replace:
            return None
        begin = partial(
            bucket.blob(full).create_resumable_upload_session, "application/dicom", size, origin or None,
            if_generation_match=int(there.generation) if there else 0, checksum=None, **_ONCE,
        )  # fmt: skip
        return str(tried(begin))

    def folders(self, prefix: str = "") -> tuple[str, ...]:
        """Return the folders directly below `prefix`, by a listing with a delimiter."""
        full, found, token = self.prefix + prefix, set[str](), None
        while True:
            prefixes, token = tried(partial(_prefixes, self._client(), self.bucket, full, token))
            found.update(one[len(full) :].rstrip("/") for one in prefixes)
            if not token:
                return tuple(sorted(found - {""}))

    def watch(self, publish: Publish, options: WatchOptions) -> None:
        """Do nothing: the bucket publishes its notifications itself."""

    def setup(self) -> Sequence[dict[str, Any]]:
        """Return how Cloud Storage tells of changes of each bucket; needs rights that the service has not."""
        names = [self.bucket, *sorted(self._buckets - {self.bucket})]
        return [tried(partial(_bucket_facts, self._client(), name)) for name in names]

    def check(self) -> None:
        """Raise StorageUnavailable unless the bucket can be listed.

        Its metadata are not read, because our roles have no permission for that. No retries: whoever checks
        will check again.
        """
        client = self._client()
        with gcs_errors():
            found = client.list_blobs(
                self.bucket, prefix=self.prefix, max_results=1, fields="items(name)", **_ONCE
            )
            next(found.pages)

    def close(self) -> None:
        """Close the connections; open streams create new ones."""
        with self._lock:
            made, self._made = self._made, None
        if made is not None:
            made.close()

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = new_client()
            return self._made

    def _check(self, ref: ObjectRef) -> None:
        if ref.bucket not in self._buckets:
            raise BadEvent("the object is in another bucket")
        if not is_object_name(ref.name):
            raise BadEvent("the object name is not legal")

    def _stat(self, ref: ObjectRef) -> Any:
        blob = version(self._client(), ref)
        tried(lambda: blob.reload(if_generation_match=ref.generation, **_ONCE), ObjectGone)
        return blob

    def _whole(self, ref: ObjectRef) -> Content:
        blob = version(self._client(), ref)
        data = download(blob, BIG_BYTES)
        content = Content(
            ref, self.uri(ref.name, ref.bucket), len(data), checksum(io.BytesIO(data)), data=data
        )
        if blob.crc32c not in (None, content.crc32c):  # set from the headers of the download
            raise ShortRead("the checksum of the bytes differs from that in the store")
        return replace(content, decode=inflated) if _is_gzipped(blob) else content

    def _put(self, name: str, data: bytes, content_type: str) -> None:
        bucket = self._client().bucket(self.bucket)
        if _upload(bucket.blob(name), data, content_type, generation=0):
            return
        there = bucket.get_blob(name, **_ONCE)
        if there is None or (there.size, there.crc32c) != (len(data), checksum(io.BytesIO(data))):
            # If this is refused too, another writer was faster; that counts as a write after ours.
            _upload(bucket.blob(name), data, content_type, there.generation if there else 0)


def is_object_name(name: str) -> bool:
    """Return whether Cloud Storage allows an object of this name."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return False
    reserved = name in (".", "..") or name.startswith(".well-known/acme-challenge/")
    return 0 < length <= NAME_BYTES and not reserved and "\r" not in name and "\n" not in name


def object_name(prefix: str, name: str) -> str:
    """Return the full name under which a bare name is stored; different names never share one.

    A name that is too long or illegal becomes a digest in its first folder. So does a name that contains the
    mark of such a digest.
    """
    if is_object_name(prefix + name) and ESCAPED not in name:
        return prefix + name
    folder = re.match(r"([A-Za-z0-9_-]{1,64}/)?", name)
    return f"{prefix}{folder.group() if folder else ''}{ESCAPED}{digest(name)}{suffix(name)}"


def _place(url: str) -> tuple[str, str]:
    """Parse a URL into bucket and prefix; the prefix is empty or ends with a slash."""
    found = _URL.fullmatch(url)
    parts = (found.group(2) or "").strip("/") if found else ""
    if not found or not is_object_name(parts or "-") or {"", ".", ".."} & set((parts or "-").split("/")):
        raise ConfigError(f"{url!r} names no place; write gs://bucket or gs://bucket/prefix")
    return found.group(1), f"{parts}/" if parts else ""


def _bucket_facts(client: Any, name: str) -> dict[str, Any]:
    from google.api_core.exceptions import Forbidden

    bucket = client.get_bucket(name, **_ONCE)
    agent = client.get_service_account_email(project=str(bucket.project_number), **_ONCE)
    try:
        bindings = bucket.get_iam_policy(requested_policy_version=3, **_ONCE).bindings
        policy = [(one["role"], member) for one in bindings for member in sorted(one["members"])]
    except Forbidden:  # a viewer may see all but policies
        policy = None
    notifications = [
        {
            "topic": f"projects/{one.topic_project}/topics/{one.topic_name}",
            "events": list(one.event_types or ()),
            "payload": one.payload_format,
            "prefix": one.blob_name_prefix or "",
        }
        for one in _notifications(bucket)
    ]
    return {
        "bucket": name,
        "notifications": notifications,
        "versioning": bucket.versioning_enabled,
        "agent": agent,
        "policy": policy,
    }


def _notifications(bucket: Any) -> list[Any]:
    try:
        return list(bucket.list_notifications(**_ONCE))
    except ValueError as exc:  # the SDK does not know topics of projects in a domain, such as example.com:p
        raise StorageUnavailable("a notification has a topic that Google's client cannot read") from exc


def _page(client: Any, bucket: str, prefix: str, token: str | None) -> tuple[list[ObjectRef], str | None]:
    found = client.list_blobs(
        bucket, prefix=prefix, page_token=token, page_size=PAGE_OBJECTS, fields=LIST_FIELDS, **_ONCE
    )
    return [
        ObjectRef(bucket, blob.name, blob.generation) for blob in next(found.pages)
    ], found.next_page_token


@dataclass(frozen=True, slots=True)
class _ListRequest:
    """One page of a listing with the facts of each object; names up to `after` are left out."""

    bucket: str
    prefix: str
    after: str
    token: str | None


def _listed_page(client: Any, asked: _ListRequest) -> tuple[list[Listed], str | None]:
    found = client.list_blobs(
        asked.bucket, prefix=asked.prefix, start_offset=asked.after or None, page_token=asked.token,
        page_size=PAGE_OBJECTS, fields=LISTED_FIELDS, **_ONCE,
    )  # fmt: skip
    return [
        Listed(
            ObjectRef(asked.bucket, blob.name, blob.generation),
            blob.size,
            blob.generation / 1e6,
            blob.metageneration,
            blob.crc32c,
            blob.storage_class,
        )
        for blob in next(found.pages)
        if blob.name != asked.after  # the offset itself is listed, too
    ], found.next_page_token


def _prefixes(client: Any, bucket: str, prefix: str, token: str | None) -> tuple[set[str], str | None]:
    found = client.list_blobs(
        bucket, prefix=prefix, delimiter="/", page_token=token, page_size=PAGE_OBJECTS,
        fields="prefixes,nextPageToken", **_ONCE,
    )  # fmt: skip
    next(found.pages)
    return set(found.prefixes), found.next_page_token


def _stream_up(blob: Any, stream: BinaryIO, size: int, generation: int) -> int | None:
    """Store a stream if `generation` (0: none) is the live one; return the new generation, else None."""
    from google.api_core.exceptions import PreconditionFailed

    try:
        blob.upload_from_file(
            stream, rewind=True, size=size, content_type="application/dicom",
            if_generation_match=generation, checksum="crc32c", **_ONCE,
        )  # fmt: skip
    except PreconditionFailed:
        return None
    return int(blob.generation)


def _is_gzipped(blob: Any) -> bool:
    return (blob.content_encoding or "").strip().lower() == "gzip"


class _Chunks:
    """Chunks as the stream of an upload, which reads it once from its beginning to its end."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._ahead, self._position = iter(chunks), bytearray(), 0

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end."""
        while len(self._ahead) < size and (chunk := next(self._chunks, None)) is not None:
            self._ahead += chunk
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        self._position += len(data)
        return data

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._position


def _write_chunks(blob: Any, chunks: Iterable[bytes], content_type: str) -> None:
    """Store chunks by a resumable upload, which repeats single requests; it ends with the last chunk only.

    The SDK's own writer ends it also when it is collected after an error.
    """
    from google.cloud.storage.retry import DEFAULT_RETRY

    blob.cache_control, blob.chunk_size = CACHE_CONTROL, CHUNK_BYTES
    again = DEFAULT_RETRY.with_timeout(DEADLINE_S)
    with gcs_errors():
        blob.upload_from_file(
            _Chunks(chunks), content_type=content_type, checksum="crc32c", timeout=TIMEOUT_S, retry=again
        )


def _upload(blob: Any, data: bytes, content_type: str, generation: int) -> bool:
    """Store the bytes if `generation` (0: none) is the live one; return whether it was."""
    from google.api_core.exceptions import PreconditionFailed

    blob.cache_control = CACHE_CONTROL
    try:
        blob.upload_from_string(
            data, content_type, if_generation_match=generation, checksum="crc32c", **_ONCE
        )
    except PreconditionFailed:
        return False
    return True
