"""What the URL of a BigQuery warehouse may say."""

import pytest

from app.model.errors import ConfigError
from app.warehouse.bigquery.url import Place, read_url


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("bigquery:my-project.lake", Place("my-project", "lake")),
        ("bigquery:example.com:my-project.Lake_2", Place("example.com:my-project", "Lake_2")),
        (
            "bigquery:my-project.lake?endpoint=http://127.0.0.1:9050&write_endpoint=https://example.com",
            Place("my-project", "lake", "http://127.0.0.1:9050", "https://example.com"),
        ),
    ],
)
def test_a_url_names_project_dataset_and_options(url, place):
    assert read_url(url) == place


def test_a_place_knows_the_default_stream_of_a_table():
    stream = Place("my-project", "lake").stream("instances")
    assert stream == "projects/my-project/datasets/lake/tables/instances/streams/_default"


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("bigquery:lake", "project.dataset"),
        ("bigquery:my-project.lake.instances", "project.dataset"),
        ("bigquery:my-project.la`ke", "project.dataset"),
        ("bigquery:My_Project.lake", "project.dataset"),
        ("bigquery:my-project.lake?write=insertall", "no option write; known: endpoint, write_endpoint"),
        ("bigquery:my-project.lake?endpoint=127.0.0.1:9050", "endpoint"),
        ("bigquery:my-project.lake?write_endpoint=", "write_endpoint"),
    ],
)
def test_a_wrong_url_is_a_configuration_error_that_names_the_fault(url, word):
    with pytest.raises(ConfigError, match=word):
        read_url(url)
