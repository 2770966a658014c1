"""Mutants as whole objects through the running service: each ends, and the service stays."""

from tests import data
from tests.dicom.pictures import RLE
from tests.system.e2e.service import Service, until
from tests.system.fuzz.codestreams import CODESTREAMS, framed
from tests.system.fuzz.subjects import SUBJECTS

OF_EACH = 3


def mutants(name):
    one = SUBJECTS[name]
    return [one.spoil(one.seeds(), name, number) for number in range(OF_EACH)]


def images():
    """Return files by name; pydicom does not write every syntax, but all that have fragments alike."""
    for name, subject in CODESTREAMS.items():
        said = subject.run.keywords
        for number, codestream in enumerate(mutants(name)):
            dataset = data.apply(framed(codestream, **said), SOPInstanceUID=data.SOP)
            file = data.raw(data.bare(dataset, RLE), syntax=said["syntax"])
            yield f"{name.replace(' ', '-')}-{number}.dcm", file


def test_mutants_of_every_codec_cost_nothing_but_their_own_picture(tmp_path):
    spoilt, others = dict(images()), {f"other-{n}.dcm": file for n, file in enumerate(mutants("metadata"))}
    with Service(tmp_path / "lake", delivery__permanent_attempts=1) as service:
        for name, file in {**others, **spoilt, "last.dcm": data.ct()}.items():
            service.drop(name, file)
        assert until(lambda: spoilt.keys() | {"last.dcm"} <= service.current().keys())
        rows = service.current()
        assert service.process.poll() is None
        assert service.healthy()
    assert len(spoilt) == OF_EACH * len(CODESTREAMS)
    assert all(bool(rows[name]["preview_uri"]) != bool(rows[name]["preview_error"]) for name in spoilt)
    codes = [rows[name]["preview_error"] for name in spoilt]
    assert (
        min(codes.count(None), codes.count("decode_failed")) > OF_EACH
    )  # they were not turned away in front
    assert rows["last.dcm"]["preview_uri"]
