"""The command `render`."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from app.cli.commands import cli
from tests import data


@pytest.fixture
def render(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mr.dcm").write_bytes(data.enhanced())
    (tmp_path / "none.dcm").write_bytes(data.minimal())

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["render", *arguments])
        assert "Traceback" not in result.output
        return result.exit_code, result.output

    return run


def test_png_is_one_frame_and_gif_is_all(render):
    assert render("mr.dcm", "-o", "one.png", "--frame", "2") == (0, '{"preview":"one.png"}\n')
    assert render("mr.dcm", "-o", "all.GIF") == (0, '{"preview":"all.GIF"}\n')
    assert (Image.open("one.png").format, Image.open("all.GIF").n_frames) == ("PNG", 3)


def test_name_that_is_not_utf_8_is_spelled_out(render, tmp_path):
    assert render("mr.dcm", "-o", "\udcff.png") == (0, '{"preview":"\\\\xff.png"}\n')
    assert (tmp_path / "\udcff.png").is_file()


def test_file_whose_name_is_not_utf_8_is_dumped_and_drawn(render, tmp_path):
    (tmp_path / "mr.dcm").rename(tmp_path / "\udcff.dcm")
    assert render("\udcff.dcm", "-o", "x.png") == (0, '{"preview":"x.png"}\n')
    result = CliRunner().invoke(cli, ["dump", "\udcff.dcm"])
    assert (result.exit_code, json.loads(result.stdout)["00080060"]["Value"]) == (0, ["MR"])


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.dcm", "there/x.png"])
def test_name_that_cannot_be_written_is_wrong_use(render, name, tmp_path):
    status, said = render("mr.dcm", "-o", name)
    assert status == 2
    assert "must end in .png or .gif" in said or "there is no folder there" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mr.dcm", "none.dcm"]


def test_cine_of_one_frame_is_wrong_use(render):
    assert render("mr.dcm", "-o", "x.gif", "--frame", "2")[0] == 2


@pytest.mark.parametrize("name", ["x.png", "x.gif"])
def test_picture_that_cannot_be_made_leaves_no_file(render, name, tmp_path):
    status, said = render("none.dcm", "-o", name)
    assert (status, said) == (1, "Error: no_pixel_data: the data set has nothing to draw\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mr.dcm", "none.dcm"]


def test_file_that_cannot_be_written_is_one_sentence(render, tmp_path):
    (tmp_path / "x.png").mkdir()
    status, said = render("mr.dcm", "-o", "x.png")
    assert status == 2
    assert "is a directory" in said
