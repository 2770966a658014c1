"""The stand-in does what Cloud Storage's documentation says, seen by the real client and on the wire."""

import gzip
from typing import Any

import httpx
import pytest
from google.api_core import exceptions

from tests.fake_gcs import ROLES, FakeGcs

CHECK_CRC, CHECK_MD5 = "4waSgw==", "JfnnlDI7RTiF9RgfG2JNCw=="  # of "123456789", from the catalogues


def get(gcs: FakeGcs, name: str, **query: object) -> httpx.Response:
    headers = query.pop("headers", {})
    return httpx.get(f"{gcs.url}/storage/v1/b/landing/o/{name}", params=query, headers=headers)


def test_resource_of_an_object(gcs: FakeGcs, client: Any) -> None:
    client.bucket("landing").blob("a/b c.dcm").upload_from_string(b"123456789", "application/dicom")
    found = get(gcs, "a%2Fb%20c.dcm").json()
    assert (found["name"], found["bucket"], found["size"]) == ("a/b c.dcm", "landing", "9")
    assert (found["crc32c"], found["md5Hash"]) == (CHECK_CRC, CHECK_MD5)
    assert (found["contentType"], found["metageneration"]) == ("application/dicom", "1")
    assert found["id"] == f"landing/a/b c.dcm/{found['generation']}"
    assert len(found["generation"]) == 16


def test_each_upload_is_a_higher_generation_and_the_one_before_is_gone(gcs: FakeGcs, client: Any) -> None:
    blob = client.bucket("landing").blob("a")
    generations = []
    for data in (b"1", b"2", b"3"):
        blob.upload_from_string(data)
        generations.append(blob.generation)
    assert generations == sorted(set(generations))
    with pytest.raises(exceptions.NotFound):
        client.bucket("landing").blob("a", generation=generations[0]).download_as_bytes()


def test_bucket_with_versions_keeps_them(gcs: FakeGcs, client: Any) -> None:
    gcs.buckets["landing"].versioning = True
    bucket = client.bucket("landing")
    old = gcs.put("landing", "a", b"old").generation
    gcs.put("landing", "a", b"new")
    assert bucket.blob("a", generation=old).download_as_bytes() == b"old"
    assert next(iter(bucket.list_blobs(versions=True))).generation == old
    bucket.blob("a").delete()
    assert list(bucket.list_blobs()) == []
    assert len(list(bucket.list_blobs(versions=True))) == 2
    bucket.blob("a", generation=old).delete()
    assert len(list(bucket.list_blobs(versions=True))) == 1


@pytest.mark.parametrize(
    ("condition", "offset", "status"),
    [
        ("ifGenerationMatch", 0, 200),
        ("ifGenerationMatch", 1, 412),
        ("ifGenerationNotMatch", 0, 304),
        ("ifGenerationNotMatch", 1, 200),
    ],
)
def test_condition_on_the_generation_of_a_read(
    gcs: FakeGcs, condition: str, offset: int, status: int
) -> None:
    generation = gcs.put("landing", "a", b"x").generation
    assert get(gcs, "a", **{condition: generation + offset}).status_code == status


@pytest.mark.parametrize(
    ("condition", "value", "status"),
    [
        ("ifMetagenerationMatch", 1, 200),
        ("ifMetagenerationMatch", 2, 412),
        ("ifMetagenerationNotMatch", 1, 304),
    ],
)
def test_condition_on_the_metageneration(gcs: FakeGcs, condition: str, value: int, status: int) -> None:
    gcs.put("landing", "a", b"x")
    assert get(gcs, "a", **{condition: value}).status_code == status


def test_conditions_of_writes(gcs: FakeGcs, client: Any) -> None:
    blob = client.bucket("landing").blob("a")
    blob.upload_from_string(b"1", if_generation_match=0)
    for wrong in (0, blob.generation + 1):
        with pytest.raises(exceptions.PreconditionFailed):
            blob.upload_from_string(b"2", if_generation_match=wrong)
    with pytest.raises(exceptions.PreconditionFailed):
        blob.delete(if_generation_match=blob.generation + 1)
    blob.upload_from_string(b"3", if_generation_match=blob.generation)
    assert blob.download_as_bytes() == b"3"


@pytest.mark.parametrize(
    ("header", "status", "body", "content_range"),
    [
        ("bytes=2-4", 206, b"345", "bytes 2-4/9"),
        ("bytes=7-", 206, b"89", "bytes 7-8/9"),
        ("bytes=-2", 206, b"89", "bytes 7-8/9"),
        ("bytes=5-100", 206, b"6789", "bytes 5-8/9"),
        ("bytes=9-", 416, None, "bytes */9"),
        ("bytes=0-1,3-4", 501, None, None),
    ],
)
def test_ranges(
    gcs: FakeGcs, header: str, status: int, body: bytes | None, content_range: str | None
) -> None:
    gcs.put("landing", "a", b"123456789")
    found = get(gcs, "a", alt="media", headers={"Range": header})
    assert (found.status_code, found.headers.get("content-range")) == (status, content_range)
    if body is not None:
        assert found.content == body


def test_gzip_encoded_object_is_inflated_for_who_does_not_accept_gzip(gcs: FakeGcs) -> None:
    stored = gzip.compress(b"123456789")
    gcs.put("landing", "a", stored, contentEncoding="gzip")
    plain = get(gcs, "a", alt="media", headers={"Accept-Encoding": "identity", "Range": "bytes=2-4"})
    assert (plain.status_code, plain.content) == (200, b"123456789")
    assert "content-length" not in plain.headers
    assert "content-encoding" not in plain.headers
    assert plain.headers["x-goog-stored-content-length"] == str(len(stored))
    with httpx.stream(
        "GET", f"{gcs.url}/storage/v1/b/landing/o/a?alt=media", headers={"Accept-Encoding": "gzip"}
    ) as raw:
        assert b"".join(raw.iter_raw()) == stored
        assert raw.headers["content-encoding"] == "gzip"


def test_object_that_must_not_be_transformed_is_served_as_stored(gcs: FakeGcs) -> None:
    stored = gzip.compress(b"x")
    gcs.put("landing", "a", stored, contentEncoding="gzip", cacheControl="no-transform")
    with httpx.stream(
        "GET", f"{gcs.url}/storage/v1/b/landing/o/a?alt=media", headers={"Accept-Encoding": "identity"}
    ) as raw:
        assert b"".join(raw.iter_raw()) == stored


def test_real_client_sees_both_forms(gcs: FakeGcs, client: Any) -> None:
    stored = gzip.compress(b"123456789")
    gcs.put("landing", "a", stored, contentEncoding="gzip")
    blob = client.bucket("landing").blob("a")
    assert blob.download_as_bytes() == b"123456789"
    assert blob.download_as_bytes(raw_download=True) == stored


def test_change_of_metadata_keeps_the_generation(gcs: FakeGcs, client: Any) -> None:
    blob = client.bucket("landing").blob("a")
    blob.upload_from_string(b"x")
    generation = blob.generation
    blob.metadata = {"study": "1"}
    blob.patch()
    assert (blob.generation, blob.metageneration, blob.metadata) == (generation, 2, {"study": "1"})


def test_composed_object_has_a_count_and_no_md5(gcs: FakeGcs, client: Any) -> None:
    bucket = client.bucket("landing")
    for name in ("1", "2"):
        gcs.put("landing", name, name.encode())
    blob = bucket.blob("whole")
    blob.compose([bucket.blob("1"), bucket.blob("2")])
    assert blob.download_as_bytes() == b"12"
    blob.reload()
    assert (blob.component_count, blob.md5_hash) == (2, None)


def test_copy_and_rewrite(gcs: FakeGcs, client: Any) -> None:
    other = gcs.make_bucket("other").name
    gcs.put("landing", "a", b"x", contentType="application/dicom")
    source = client.bucket("landing").blob("a")
    copied = client.bucket("landing").copy_blob(source, client.bucket(other), "b/c")
    assert (copied.name, copied.content_type, copied.download_as_bytes()) == (
        "b/c",
        "application/dicom",
        b"x",
    )
    token, done, total = client.bucket(other).blob("d").rewrite(source)
    assert (token, done, total) == (None, 1, 1)


def test_soft_deleted_object_can_be_restored(gcs: FakeGcs, client: Any) -> None:
    gcs.buckets["landing"].soft_delete = True
    generation = gcs.put("landing", "a", b"x").generation
    gcs.delete("landing", "a")
    restored = client.bucket("landing").restore_blob("a", generation=generation)
    assert restored.generation > generation
    assert restored.download_as_bytes() == b"x"


def test_list_is_by_prefix_in_pages_and_partial(gcs: FakeGcs, client: Any) -> None:
    for name in ("b/1", "a/2", "a/1", "a/3"):
        gcs.put("landing", name, b"x")
    assert [blob.name for blob in client.list_blobs("landing", start_offset="a/2")] == ["a/2", "a/3", "b/1"]
    pages = client.list_blobs("landing", prefix="a/", page_size=2).pages
    assert [[blob.name for blob in page] for page in pages] == [["a/1", "a/2"], ["a/3"]]
    found = get(gcs, "", fields="x")
    assert found.status_code == 501  # no such route: the name is empty
    listed = httpx.get(
        f"{gcs.url}/storage/v1/b/landing/o", params={"fields": "items(name),nextPageToken", "maxResults": 1}
    ).json()
    assert listed["items"] == [{"name": "a/1"}]
    assert set(listed) == {"items", "nextPageToken"}


@pytest.mark.parametrize("name", [".", "..", "a\nb", "a\rb", ".well-known/acme-challenge/x", "é" * 513])
def test_names_that_are_not_legal_are_refused(gcs: FakeGcs, client: Any, name: str) -> None:
    with pytest.raises(exceptions.BadRequest):
        client.bucket("landing").blob(name).upload_from_string(b"x")


@pytest.mark.parametrize(
    "path",
    [
        "/storage/v1/b/landing/o?endOffset=a",
        "/storage/v1/b/landing/o/a?userProject=p",
        "/storage/v1/b/landing/acl",
        "/batch/storage/v1",
    ],
)
def test_what_is_not_known_is_said_so(gcs: FakeGcs, path: str) -> None:
    gcs.put("landing", "a", b"x")
    assert httpx.get(gcs.url + path).status_code == 501


def test_missing_bucket_and_object_are_404(gcs: FakeGcs, client: Any) -> None:
    for bucket in ("landing", "nowhere"):
        with pytest.raises(exceptions.NotFound):
            client.bucket(bucket).blob("a").reload()
    assert client.bucket("landing").get_blob("a") is None


def test_grants_decide(gcs: FakeGcs, client: Any) -> None:
    bucket = client.bucket("landing")
    gcs.put("landing", "a", b"x")
    gcs.grants = ROLES["objectViewer"]
    assert bucket.blob("a").download_as_bytes() == b"x"
    assert bucket.test_iam_permissions(["storage.objects.get", "storage.objects.create"]) == [
        "storage.objects.get"
    ]
    for refused in (bucket.reload, bucket.blob("a").delete, lambda: bucket.blob("b").upload_from_string(b"")):
        with pytest.raises(exceptions.Forbidden):
            refused()
    gcs.grants = ROLES["objectCreator"]
    bucket.blob("b").upload_from_string(b"x")
    with pytest.raises(exceptions.Forbidden):  # to overwrite takes the right to delete
        bucket.blob("a").upload_from_string(b"y")
    gcs.grants = {"storage.objects.get"}
    with pytest.raises(exceptions.Forbidden):  # not NotFound: who may not list is not told
        bucket.blob("missing").download_as_bytes()


def test_bucket_made_by_the_client(gcs: FakeGcs, client: Any) -> None:
    assert client.create_bucket("made", project="p").name == "made"
    with pytest.raises(exceptions.Conflict):
        client.create_bucket("made", project="p")
    assert client.get_bucket("made").versioning_enabled is False


@pytest.mark.parametrize(
    ("method", "path", "status", "billed"),
    [
        ("POST", "/upload/storage/v1/b/landing/o?uploadType=media&name=b", 200, "A"),
        ("POST", "/upload/storage/v1/b/landing/o?uploadType=media&name=a&ifGenerationMatch=0", 412, ""),
        ("POST", "/upload/storage/v1/b/landing/o?uploadType=resumable&name=b", 200, "A"),
        ("GET", "/storage/v1/b/landing/o?prefix=a", 200, "A"),
        ("GET", "/storage/v1/b/landing/o/a", 200, "B"),
        ("GET", "/storage/v1/b/landing/o/o", 200, "B"),
        ("GET", "/storage/v1/b/landing/o/missing", 404, ""),
        ("GET", "/download/storage/v1/b/landing/o/a?alt=media", 200, "B"),
        ("DELETE", "/storage/v1/b/landing/o/a", 204, ""),
    ],
)
def test_operations_are_counted_as_they_are_billed(
    gcs: FakeGcs, method: str, path: str, status: int, billed: str
) -> None:
    for name in ("a", "o"):
        gcs.put("landing", name, b"x")
    assert httpx.request(method, gcs.url + path).status_code == status
    assert gcs.billed == {billed: 1}
