import pytest

from app.errors import ConfigError
from app.services import open_services, own_prefixes
from tests.conftest import lake_settings


def settings(tmp_path, source, artifacts, **more):
    return lake_settings(tmp_path, source__url=source, artifacts__url=artifacts, **more)


@pytest.mark.parametrize(
    ("source", "artifacts", "prefixes"),
    [
        ("file:/l/landing", "file:/l/output", ()),
        ("file:/l/landing", "file:/l/landing/out", ("out/images/", "out/metadata/")),
        ("file:/l", "file:/l", ("images/", "metadata/")),
        ("gs://b/in", "gs://b/out", ("out/images/", "out/metadata/")),
        ("gs://b", "gs://b", ("images/", "metadata/")),
        ("gs://b", "gs://bb", ()),
        ("gs://b/in", "gs://c", ()),
    ],
)
def test_our_own_output_in_the_source_is_known_by_its_prefix(tmp_path, source, artifacts, prefixes):
    assert own_prefixes(settings(tmp_path, source, artifacts)) == prefixes


@pytest.mark.parametrize(
    ("source", "artifacts", "images"),
    [
        ("file:/l", "file:/l", ""),
        ("file:/l/images", "file:/l", "images/"),
        ("gs://b/images/in", "gs://b", "images/"),
        ("gs://b", "gs://b", ""),
    ],
)
def test_places_where_our_output_would_trigger_us_are_refused(tmp_path, source, artifacts, images):
    with pytest.raises(ConfigError, match="overlap"):
        own_prefixes(settings(tmp_path, source, artifacts, artifacts__images=images))


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
