import subprocess
import sys

import pytest

from app.checks import check_apart
from app.model.errors import ConfigError
from app.places import own_prefixes
from app.services import open_services
from tests.conftest import lake_settings
from tests.parts import ROOT

CLOUD = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    hidden = sys.argv[1:]

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in cls.hidden else super().find_spec(name, path, target)

def refuse(event, arguments):
    assert event not in ("socket.connect", "socket.getaddrinfo"), arguments

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
sys.addaudithook(refuse)
import app.api.server
from app import config
from app.model.errors import ConfigError
from app.services import open_services

places = {
    "source.url": "gs://landing",
    "artifacts.url": "gs://artifacts",
    "warehouse.url": "bigquery:demo-project.lake",
    "bus.url": "pubsub:projects/p/topics/changes",
    "bus.dead_letter_topic": "projects/p/topics/letters",
}
try:
    services = open_services(config.load({}, places).settings)
except ConfigError as error:
    sys.exit(error.text)
# A namespace has no code of its own: only what has a file was run.
sdks = ("google.cloud", "google.api_core", "google.auth", "google.pubsub", "grpc")
run = [name for name, module in sys.modules.items() if getattr(module, "__file__", None)]
print([name for name in run if name.startswith(sdks)])
services.close()
"""


def settings(tmp_path, source, artifacts, **more):
    return lake_settings(tmp_path, source__url=source, artifacts__url=artifacts, **more)


BOTH = ("images/", "metadata/", "dicom/", "cache/", "state/")
BELOW = ("out/images/", "out/metadata/", "out/dicom/", "out/cache/", "out/state/")


@pytest.mark.parametrize(
    ("source", "artifacts", "prefixes"),
    [
        ("file:/l/landing", "file:/l/output", ()),
        ("file:/l/landing", "file:/l/landing/out", BELOW),
        ("file:/l", "file:/l", BOTH),
        ("gs://bkt/in", "gs://bkt/out", BELOW),
        ("gs://bkt", "gs://bkt", BOTH),
        ("gs://bkt", "gs://bkt2", ()),
        ("gs://bkt/in", "gs://other", ()),
    ],
)
def test_our_own_output_in_the_source_is_known_by_its_prefix(tmp_path, source, artifacts, prefixes):
    assert own_prefixes(settings(tmp_path, source, artifacts), "bkt")["bkt"] == prefixes


@pytest.mark.parametrize(
    ("artifacts", "own"),
    [
        ("gs://one/out", {"one": BELOW, "two": (), "three": ()}),
        ("gs://two", {"one": (), "two": BOTH, "three": ()}),
        ("gs://four", {"one": (), "two": (), "three": ()}),
    ],
)
def test_of_several_buckets_only_the_one_with_our_output_has_prefixes_of_ours(tmp_path, artifacts, own):
    several = settings(tmp_path, "gs://one", artifacts, source__buckets=["two", "three"])
    assert own_prefixes(several, "one") == own


@pytest.mark.parametrize(
    ("source", "artifacts", "images", "buckets"),
    [
        ("file:/l", "file:/l", "", []),
        ("file:/l/images", "file:/l", "images/", []),
        ("gs://bkt/images/in", "gs://bkt", "images/", []),
        ("gs://bkt", "gs://bkt", "", []),
        ("gs://one", "gs://two", "", ["two"]),
    ],
)
def test_places_where_our_output_would_trigger_us_are_refused(tmp_path, source, artifacts, images, buckets):
    places = settings(tmp_path, source, artifacts, artifacts__images=images, source__buckets=buckets)
    with pytest.raises(ConfigError, match="overlap"):
        check_apart(places)


@pytest.mark.parametrize(
    ("seam", "url", "sentence"),
    [
        ("source", "ftp://x", "source.url 'ftp://x' has no known scheme; begin it with one of file:, gs:"),
        ("warehouse", "oracle:x", "warehouse.url 'oracle:x' has no known scheme"),
        ("bus", "rabbit:x", "bus.url 'rabbit:x' has no known scheme"),
    ],
)
def test_an_unknown_scheme_lists_the_known_ones(tmp_path, seam, url, sentence):
    with pytest.raises(ConfigError) as caught:
        open_services(lake_settings(tmp_path, **{f"{seam}__url": url}))
    assert sentence in caught.value.text


def test_opening_twice_on_one_lake_for_reading_is_fine_and_closing_is_whole(tmp_path):
    first, second = open_services(lake_settings(tmp_path)), open_services(lake_settings(tmp_path))
    first.close()
    assert second.warehouse.query("SELECT count(*) AS n FROM instances") == [{"n": 0}]
    second.close()


def cloud(*hidden: str) -> subprocess.CompletedProcess[str]:
    """Open services of Google Cloud in a process of its own, without packages of these names."""
    command = [sys.executable, "-c", CLOUD, *hidden]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_opening_the_cloud_imports_no_sdk_and_asks_no_network():
    opened = cloud()
    assert (opened.stdout, opened.stderr, opened.returncode) == ("[]\n", "", 0)


@pytest.mark.parametrize(
    ("hidden", "sentence"),
    [
        (
            ["google.cloud.storage"],
            "source.url gs: needs dicomlake[gcp]; google.cloud.storage is not installed",
        ),
        (
            ["google.cloud.bigquery"],
            "warehouse.url bigquery: needs dicomlake[gcp]; google.cloud.bigquery is not installed",
        ),
        (["google.pubsub_v1"], "bus.url pubsub: needs dicomlake[gcp]; google.pubsub_v1 is not installed"),
        (["google"], "source.url gs: needs dicomlake[gcp]; google is not installed"),
    ],
)
def test_a_missing_package_is_told_with_the_extra_that_brings_it(hidden, sentence):
    opened = cloud(*hidden)
    assert (opened.stderr.strip().split("; artifacts.url")[0], opened.returncode) == (sentence, 1)
