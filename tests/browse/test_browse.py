"""Instances, their objects, frames, documents and pictures, over a real lake."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from app.browse.bulk import read_bulk_value
from app.browse.cache import AGE_S, Cache, prune
from app.browse.files import open_file
from app.browse.frames import read_frame
from app.browse.instances import Instances, NotFound
from app.browse.metadata import document, documents
from app.browse.objects import Originals
from app.browse.rendered import thumbnail
from app.browse.tags import read_tags
from app.model.errors import ObjectGone
from app.model.options import RenderOptions
from tests import data
from tests.archives import tgz, zipped
from tests.browse.lake import put, remove
from tests.data import SERIES, SOP, STUDY

BASE = "http://lake/dicomweb"
HERE = f"{BASE}/studies/{STUDY}/series/{SERIES}/instances"


@pytest.fixture
def instances(services):
    return Instances(services.warehouse, fresh_s=0)


@pytest.fixture
def originals(services):
    return Originals(services, Cache(services.artifacts))


def slices(services, count):
    """Store a series of this many instances, the last number first."""
    return [
        put(services, f"{n}.dcm", data.ct(SOPInstanceUID=f"{SOP}.{n}", InstanceNumber=str(n)))
        for n in range(count, 0, -1)
    ]


def uids(text: bytes) -> list[str]:
    return [found["00080018"]["Value"][0] for found in json.loads(text)]


def kept(services) -> list[str]:
    return sorted(ref.name for ref in services.artifacts.list("cache/"))


def test_instances_come_in_order_and_one_by_its_uids(services, instances):
    slices(services, 3)
    assert [one.instance_number for one in instances.find(STUDY, SERIES)] == [1, 2, 3]
    assert instances.one(STUDY, SERIES, f"{SOP}.2").instance_number == 2
    for wrong in (("1.2", SERIES, f"{SOP}.2"), (STUDY, "1.2", f"{SOP}.2"), (STUDY, SERIES, "1.2")):
        with pytest.raises(NotFound):
            instances.one(*wrong)


def test_of_two_objects_with_one_instance_the_later_is_given(services, instances):
    put(services, "a.dcm", data.ct(PatientID="first"))
    put(services, "b.dcm", data.ct(PatientID="second"))
    (found,) = instances.find(STUDY)
    assert found.object_uri.endswith("b.dcm")


def test_documents_of_a_series_are_put_together_once_and_anew_after_a_change(services, instances, originals):
    first, *_ = slices(services, 3)
    wanted = [f"{SOP}.{n}" for n in (1, 2, 3)]
    assert uids(b"".join(documents(instances.find(STUDY), BASE, originals))) == wanted
    (name,) = kept(services)
    assert name.startswith(f"cache/{SERIES}/")
    # Another process reads what was kept: the artifacts are not needed for it.
    for ref in list(services.artifacts.list("metadata/")):
        services.artifacts.delete(ref.name)
    other = Originals(services, Cache(services.artifacts))
    assert uids(b"".join(documents(instances.find(STUDY), BASE, other))) == wanted
    remove(services, first)
    with pytest.raises(ObjectGone):  # what was kept of three instances is not used for two
        b"".join(documents(instances.find(STUDY), BASE, originals))


def test_addresses_of_bulk_data_are_those_of_this_service(services, instances, originals):
    put(services, "a.dcm", data.ct())
    (found,) = json.loads(document(instances.one(STUDY, SERIES, SOP), BASE, originals))
    assert found["7FE00010"] == {"vr": "OW", "BulkDataURI": f"{HERE}/{SOP}/bulkdata/7FE00010"}


def test_a_text_that_looks_like_an_address_stays_as_it_is(services, instances, originals):
    told = '"7FE00010":{"vr":"OW","BulkDataURI":"x#offset=1&length=2"}'
    put(services, "a.dcm", data.ct(ImageComments=told))
    (found,) = json.loads(document(instances.one(STUDY, SERIES, SOP), BASE, originals))
    assert found["00204000"]["Value"] == [told]


@pytest.mark.parametrize("syntax", data.NATIVE)
def test_bulk_values_are_little_endian_whatever_the_object_is(services, instances, originals, syntax):
    dataset = data.ct_dataset(syntax, Rows=32, Columns=32)
    put(services, "a.dcm", data.part10(dataset, syntax))
    value = read_bulk_value(instances.one(STUDY, SERIES, SOP), "7FE00010", 1, originals)
    assert b"".join(value.pieces(originals)) == data.pixels(32, 32)
    assert b"".join(value.pieces(originals, 4, 2)) == b"\2\0"
    with pytest.raises(NotFound):
        read_bulk_value(instances.one(STUDY, SERIES, SOP), "7FE00010", 2, originals)


@pytest.mark.parametrize("syntax", data.NATIVE)
def test_frames_of_every_encoding(services, instances, originals, syntax):
    put(services, "a.dcm", data.enhanced(syntax, frames=3))
    stored = instances.one(STUDY, SERIES, SOP)
    found = read_frame(stored, 2, False, originals)
    wanted = data.pixels(4, 4, frames=3)[64:]
    assert b"".join(found.pieces(originals)) == wanted
    assert b"".join(found.pieces(originals, 2, 4)) == wanted[2:6]


@pytest.mark.parametrize("pack", [zipped, tgz])
def test_a_member_of_an_archive_is_read_as_an_object_is(services, instances, originals, pack):
    put(services, "a.zip", pack([("one.dcm", data.ct()), ("two.dcm", data.ct(SOPInstanceUID=f"{SOP}.2"))]))
    stored = instances.one(STUDY, SERIES, f"{SOP}.2")
    assert stored.member == "two.dcm"
    file = open_file(stored, "1.2.840.10008.1.2.1", originals)
    assert b"".join(file.pieces(originals)) == data.ct(SOPInstanceUID=f"{SOP}.2")
    assert b"".join(read_frame(stored, 0, False, originals).pieces(originals)) == data.pixels(16, 8)


def test_a_file_that_was_ingested_where_it_lies_is_read_there(services, instances, originals, tmp_path):
    from app.jobs.ingest import ingest

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.dcm").write_bytes(data.ct())
    ingest([tmp_path / "elsewhere"], services, lambda line: None)
    file = open_file(instances.one(STUDY, SERIES, SOP), "1.2.840.10008.1.2.1", originals)
    assert b"".join(file.pieces(originals)) == data.ct()
    originals.close()


def test_an_object_that_is_gone_or_another_is_not_given(services, instances, originals):
    ref = put(services, "a.dcm", data.ct())
    stored = instances.one(STUDY, SERIES, SOP)
    path = Path(services.source.root / ref.name)
    path.write_bytes(data.ct(PatientID="another"))
    for read in (
        lambda: open_file(stored, "1.2.840.10008.1.2.1", originals),
        lambda: read_frame(stored, 0, False, originals),
        lambda: read_tags(stored, ["Rows"], originals),
    ):
        with pytest.raises(ObjectGone):
            read()


def test_attributes_by_name(services, instances, originals):
    put(services, "a.dcm", data.ct())
    found, unknown = read_tags(instances.one(STUDY, SERIES, SOP), ["Columns", "(2222,2222)"], originals)
    assert ([one["value"] for one in found], unknown) == ([8], ["(2222,2222)"])


def test_a_thumbnail_is_made_of_the_preview_and_kept(services, instances, originals):
    ref = put(services, "a.dcm", data.ct(Rows=300, Columns=200))
    stored = instances.one(STUDY, SERIES, SOP)
    (services.source.root / ref.name).unlink()  # the object is not needed for it
    how = RenderOptions("image/jpeg")
    image = Image.open(io.BytesIO(thumbnail(stored, how, originals)))
    assert (image.format, max(image.size)) == ("JPEG", 128)
    assert len(kept(services)) == 1
    services.artifacts.delete(next(iter(services.artifacts.list("images/"))).name)
    assert thumbnail(stored, how, Originals(services, Cache(services.artifacts)))


def test_only_a_few_sizes_of_thumbnails_are_kept_as_objects(services, instances, originals):
    put(services, "a.dcm", data.ct(Rows=300, Columns=200))
    stored = instances.one(STUDY, SERIES, SOP)
    for side in range(100, 110):
        thumbnail(stored, RenderOptions("image/jpeg", viewport=(side, side)), originals)
    assert kept(services) == []


def test_what_is_kept_in_a_folder_goes_after_a_week(services):
    cache = Cache(services.artifacts)
    cache.put("1.2", "a", b"x", "")
    (ref,) = services.artifacts.list("cache/")
    prune(services.artifacts, ref.generation / 1e9 + AGE_S - 60)
    assert kept(services) == ["cache/1.2/a"]
    prune(services.artifacts, ref.generation / 1e9 + AGE_S + 60)
    assert kept(services) == []


def test_memory_holds_no_more_than_it_may_and_no_series_names_a_path(services):
    cache = Cache(services.artifacts, max_memory_bytes=10)
    for name in "abc":
        cache.put("../x", name, b"12345", "", stored=False)
    assert [cache.get("../x", name, stored=False) for name in "abc"] == [None, b"12345", b"12345"]
    cache.put("../x", "d", b"1", "")
    (name,) = kept(services)
    assert ".." not in name
