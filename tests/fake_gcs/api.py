"""The JSON API: routes, what each is allowed to be asked, and the permission it takes."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.fake_gcs.errors import ApiError
from tests.fake_gcs.media import media
from tests.fake_gcs.messages import CONDITIONS, Request, Response, answer_json, refusal
from tests.fake_gcs.objects import Bucket, Preconditions, Version, crc32c
from tests.fake_gcs.uploads import Session, Sessions, checked_settings, parse_multipart

ONE = {"generation", *CONDITIONS}
BUCKET, OBJECT = r"/storage/v1/b/([^/]+)", r"/storage/v1/b/([^/]+)/o/([^/]+)"
Handler = Callable[["Api", "Request"], Response]


@dataclass(frozen=True)
class Route:
    method: str
    path: re.Pattern[str]
    parameters: frozenset[str]
    handler: Handler


ROUTES: list[Route] = []


def route(method: str, path: str, *parameters: str) -> Callable[[Handler], Handler]:
    def add(handler: Handler) -> Handler:
        allowed = frozenset({"prettyPrint", "alt", *parameters})
        ROUTES.append(Route(method, re.compile(path), allowed, handler))
        return handler

    return add


class Api:
    """Answers requests from the buckets it is given; `grants` None allows everything."""

    def __init__(self, buckets: dict[str, Bucket], make_bucket: Callable[..., Bucket]) -> None:
        self.buckets, self.make_bucket = buckets, make_bucket
        self.sessions = Sessions()
        self.grants: set[str] | None = None
        self.page_objects = 1000
        self.url = ""

    def answer(self, request: Request) -> Response:
        """Return the answer, an error's too; a route or parameter not known here is a 501."""
        try:
            answer = self._dispatch(request)
        except ApiError as error:
            answer = refusal(error, request)
        answer.headers |= self.sessions.shared(request.query.get("upload_id", ""))
        return answer

    def _dispatch(self, request: Request) -> Response:
        path = urlsplit(request.target).path
        for found in ROUTES:
            match = found.path.fullmatch(path)
            if match and found.method == request.method:
                if unknown := set(request.query) - found.parameters:
                    raise ApiError(501, f"parameters not served here: {sorted(unknown)}")
                return found.handler(self, replace(request, names=tuple(map(unquote, match.groups()))))
        raise ApiError(501, f"not served here: {request.method} {path}")

    def bucket(self, name: str) -> Bucket:
        if name not in self.buckets:
            raise ApiError(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def require(self, *permissions: str) -> None:
        """Raise 403 when a permission is not granted."""
        for permission in permissions:
            if self.grants is not None and permission not in self.grants:
                raise ApiError(403, f"The caller does not have {permission} access.")

    def version(self, request: Request, permission: str, reading: bool = True) -> Version:
        """Return the version that a request names; who may not list is not told that there is none."""
        self.require(permission)
        bucket, name = self.bucket(request.names[0]), request.names[1]
        if bucket.find(name, request.number("generation")) is None:
            self.require("storage.objects.list")
        return bucket.get(name, request.number("generation"), request.conditions(), reading)

    def create(self, bucket: Bucket, name: str, *rest: Any) -> Version:
        """Store an object; to overwrite one takes the right to delete it."""
        self.require("storage.objects.create")
        if name in bucket.live:
            self.require("storage.objects.delete")
        return bucket.put(name, *rest)


@route("GET", BUCKET, "projection", "fields")
def get_bucket(api: Api, request: Request) -> Response:
    api.require("storage.buckets.get")
    bucket = api.bucket(request.names[0])
    found = {"kind": "storage#bucket", "id": bucket.name, "name": bucket.name, "location": "US"}
    found |= {"projectNumber": "123456789012"}
    return answer_json(found | {"versioning": {"enabled": bucket.versioning}}, request)


@route("GET", BUCKET + "/iam", "optionsRequestedPolicyVersion")
def get_policy(api: Api, request: Request) -> Response:
    api.require("storage.buckets.getIamPolicy")
    bindings = api.bucket(request.names[0]).bindings
    return answer_json({"kind": "storage#policy", "version": 3, "etag": "CAE=", "bindings": bindings})


@route("GET", BUCKET + "/notificationConfigs")
def list_configurations(api: Api, request: Request) -> Response:
    api.require("storage.buckets.get")
    items = api.bucket(request.names[0]).configurations
    return answer_json({"kind": "storage#notifications"} | ({"items": items} if items else {}))


@route("GET", "/storage/v1/projects/([^/]+)/serviceAccount")
def service_account(api: Api, request: Request) -> Response:
    address = f"service-{request.names[0]}@gs-project-accounts.iam.gserviceaccount.com"
    return answer_json({"kind": "storage#serviceAccount", "email_address": address})


@route("POST", "/storage/v1/b", "project")
def insert_bucket(api: Api, request: Request) -> Response:
    api.require("storage.buckets.create")
    given = request.json()
    if set(given) - {"name", "versioning"}:
        raise ApiError(501, "only name and versioning of a bucket are served here")
    if given["name"] in api.buckets:
        raise ApiError(409, "Your previous request to create the named bucket succeeded")
    versioning = given.get("versioning", {}).get("enabled", False)
    return answer_json({"kind": "storage#bucket", "name": api.make_bucket(given["name"], versioning).name})


@route("GET", BUCKET + "/iam/testPermissions", "permissions")
def test_permissions(api: Api, request: Request) -> Response:
    api.bucket(request.names[0])
    asked = [value for key, value in parse_qsl(urlsplit(request.target).query) if key == "permissions"]
    return answer_json({"permissions": [name for name in asked if api.grants is None or name in api.grants]})


@route(
    *("GET", BUCKET + "/o", "prefix", "delimiter", "pageToken", "maxResults", "versions", "projection"),
    *("fields", "startOffset"),
)
def list_objects(api: Api, request: Request) -> Response:
    api.require("storage.objects.list")
    query = request.query
    found = api.bucket(request.names[0]).listing(
        query.get("prefix", ""), query.get("versions", "").lower() == "true"
    )
    found = [v for v in found if v.name.encode() >= query.get("startOffset", "").encode()]
    if "pageToken" in query:
        name, generation = json.loads(base64.urlsafe_b64decode(query["pageToken"]))
        found = [v for v in found if (v.name.encode(), v.generation) > (name.encode(), generation)]
    count = min(request.number("maxResults") or 1000, api.page_objects)
    begins, delimiter = len(query.get("prefix", "")), query.get("delimiter")
    inner = {
        v.name: v.name[begins:].partition(delimiter) if delimiter else ("", "", "") for v in found[:count]
    }
    items = [v.resource(api.url) for v in found[:count] if not inner[v.name][1]]
    prefixes = {name[:begins] + head + sign for name, (head, sign, _) in inner.items() if sign}
    page: dict[str, Any] = {"kind": "storage#objects"}
    page |= ({"items": items} if items else {}) | ({"prefixes": sorted(prefixes)} if prefixes else {})
    if len(found) > count:
        last = json.dumps([found[count - 1].name, found[count - 1].generation])
        page["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
    return answer_json(page, request)


@route("GET", OBJECT, *ONE, "projection", "fields")
def get_object(api: Api, request: Request) -> Response:
    version = api.version(request, "storage.objects.get")
    if request.query.get("alt") == "media":
        headers = request.headers
        return media(version, headers.get("range", ""), headers.get("accept-encoding", ""))
    return answer_json(version.resource(api.url), request)


@route("GET", "/download" + OBJECT, *ONE)
def download_object(api: Api, request: Request) -> Response:
    if request.query.get("alt") != "media":
        raise ApiError(400, "a download has alt=media")
    return get_object(api, request)


@route("DELETE", OBJECT, *ONE)
def delete_object(api: Api, request: Request) -> Response:
    version = api.version(request, "storage.objects.delete", reading=False)
    generation = request.number("generation")
    api.bucket(version.bucket).delete(version.name, generation, request.conditions())
    return Response(204)


@route("PATCH", OBJECT, *ONE, "projection")
def patch_object(api: Api, request: Request) -> Response:
    version = api.version(request, "storage.objects.update", reading=False)
    generation = request.number("generation")
    changed = api.bucket(version.bucket).patch(version.name, generation, request.conditions(), request.json())
    return answer_json(changed.resource(api.url))


@route("POST", OBJECT + "/restore", *ONE, "projection")
def restore_object(api: Api, request: Request) -> Response:
    api.require("storage.objects.restore", "storage.objects.create")
    generation = request.number("generation") or 0
    restored = api.bucket(request.names[0]).restore(request.names[1], generation, request.conditions())
    return answer_json(restored.resource(api.url))


@route("POST", OBJECT + "/copyTo/b/([^/]+)/o/([^/]+)", "sourceGeneration", "projection", *CONDITIONS)
@route("POST", OBJECT + "/rewriteTo/b/([^/]+)/o/([^/]+)", "sourceGeneration", "projection", *CONDITIONS)
def copy_object(api: Api, request: Request) -> Response:
    api.require("storage.objects.get")
    bucket, name, to_bucket, to_name = request.names
    source = api.bucket(bucket).get(name, request.number("sourceGeneration"), Preconditions(), True)
    settings = {**source.settings, **request.json()}
    copied = api.create(api.bucket(to_bucket), to_name, source.data, settings, request.conditions())
    if "/copyTo/" in request.target:
        return answer_json(copied.resource(api.url))
    size = str(len(copied.data))
    sizes = {"totalBytesRewritten": size, "objectSize": size}
    return answer_json(
        {"kind": "storage#rewriteResponse", "done": True, **sizes, "resource": copied.resource(api.url)}
    )


@route("POST", OBJECT + "/compose", *CONDITIONS)
def compose_object(api: Api, request: Request) -> Response:
    api.require("storage.objects.get")
    bucket, name = api.bucket(request.names[0]), request.names[1]
    given = request.json()
    if not 1 <= len(given.get("sourceObjects", [])) <= 32:
        raise ApiError(400, "The number of source components must be between 1 and 32")
    parts = []
    for source in given["sourceObjects"]:
        generation = int(source["generation"]) if source.get("generation") else None
        parts.append(bucket.get(source["name"], generation, Preconditions(), True))
    data = b"".join(part.data for part in parts)
    settings = {"contentType": "application/octet-stream", **given.get("destination", {})}
    count = sum(part.components or 1 for part in parts)
    return answer_json(
        api.create(bucket, name, data, settings, request.conditions(), count).resource(api.url)
    )


@route("POST", "/upload" + BUCKET + "/o", "uploadType", "name", *CONDITIONS)
def upload_object(api: Api, request: Request) -> Response:
    bucket, kind = api.bucket(request.names[0]), request.query.get("uploadType")
    if kind == "resumable":
        return begin_upload(api, bucket, request)
    content_type = request.headers.get("content-type", "application/octet-stream")
    if kind == "media":
        metadata, data = {"name": request.query.get("name", "")}, request.body
    elif kind == "multipart":
        metadata, content_type, data = parse_multipart(content_type, request.body)
    else:
        raise ApiError(400, "uploadType is media, multipart or resumable")
    name = request.query.get("name", metadata.get("name", ""))
    settings = checked_settings(metadata, content_type, data)
    return answer_json(api.create(bucket, name, data, settings, request.conditions()).resource(api.url))


def begin_upload(api: Api, bucket: Bucket, request: Request) -> Response:
    api.require("storage.objects.create")
    metadata, conditions = request.json(), request.conditions()
    name = request.query.get("name", metadata.get("name", ""))
    conditions.check(bucket.find(name))
    length = request.headers.get("x-upload-content-length")
    content_type = request.headers.get("x-upload-content-type", "application/octet-stream")
    session = Session(
        bucket.name,
        name,
        metadata,
        content_type,
        conditions,
        int(length) if length else None,
        request.headers.get("origin", ""),
    )
    upload_id = api.sessions.begin(session)
    place = f"{api.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable&upload_id={upload_id}"
    return Response(200, b"", {"Location": place, "X-GUploader-UploadID": upload_id})


@route("PUT", "/upload" + BUCKET + "/o", "uploadType", "upload_id")
def continue_upload(api: Api, request: Request) -> Response:
    session = api.sessions.find(request.query["upload_id"])
    if session.done is None:
        size = len(request.body)
        whole = f"bytes 0-{size - 1}/{size}" if size else "bytes */0"
        if not session.take(request.headers.get("content-range", whole), request.body):
            return Response(308, b"", session.progress())
        data = bytes(session.data)
        given = dict(
            sum_of.split("=", 1) for sum_of in request.headers.get("x-goog-hash", "").split(",") if sum_of
        )
        if given.get("crc32c", crc32c(data)) != crc32c(data):
            raise ApiError(400, "Provided CRC32C doesn't match calculated CRC32C")
        settings = checked_settings(session.metadata, session.content_type, data)
        bucket = api.bucket(session.bucket)
        session.done = api.create(bucket, session.name, data, settings, session.conditions)
    return answer_json(session.done.resource(api.url))


@route("OPTIONS", "/upload" + BUCKET + "/o", "uploadType", "upload_id")
def preflight(api: Api, request: Request) -> Response:
    """Answer what a browser asks before a page puts bytes into a session."""
    api.sessions.find(request.query["upload_id"])
    asked = request.headers.get("access-control-request-headers", "")
    return Response(200, b"", {"Access-Control-Allow-Methods": "PUT", "Access-Control-Allow-Headers": asked})


@route("DELETE", "/upload" + BUCKET + "/o", "uploadType", "upload_id")
def cancel_upload(api: Api, request: Request) -> Response:
    api.sessions.cancel(request.query["upload_id"])
    return Response(499)
