"""Clients that others wrote: Orthanc's plugin DICOMweb, and dicomweb-client as docs/viewers.md uses it."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from app.api.users import Tokens
from tests import data
from tests.parts import ROOT, need
from tests.system.e2e.service import Service, free_port, until

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
KEY = "k" * 32
SAMPLES = ("MR_small_RLE.dcm", "JPEG-lossy.dcm", "ExplVR_BigEnd.dcm", "rtplan.dcm")
"""pydicom's own: lossless, lossy, big endian, no pixels."""


class Orthanc:
    """The REST API of an Orthanc that knows the service as `lake`."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body)
        answer = self._client.request(method, path, content=content)
        assert answer.status_code == 200, answer.text
        return (
            answer.json() if answer.headers["content-type"].startswith("application/json") else answer.content
        )

    def answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return self._client.get("/system").status_code == 200
        return False


@contextmanager
def orthanc(folder: Path, lake: str, token: str) -> Iterator[Orthanc]:
    """Run an empty Orthanc with its plugin, or skip the test where it is not installed."""
    program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    here = Path(program).exists() and PLUGIN.exists()
    need("Orthanc with its plugin DICOMweb", here, "apt-get install orthanc orthanc-dicomweb")
    port = free_port()
    server = {"Url": f"{lake}/dicomweb/", "HttpHeaders": {"Authorization": f"Bearer {token}"}}
    settings = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DefaultEncoding": "Utf8",
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Servers": {"lake": server}},
    }
    folder.mkdir()
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        running = Orthanc(port)
        assert until(running.answers), (folder / "log").read_text()[-2000:]
        yield running
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def lake(tmp_path):
    with Service(tmp_path / "lake", api__users="token", api__users_key=KEY) as service:
        yield service


def token(role: str) -> str:
    return Tokens(KEY).issue("client", role, time.time(), 3600)


def samples() -> list[bytes]:
    names = [str(get_testdata_file(name, download=False)) for name in SAMPLES]
    name = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Änne"}
    return [data.ct(**name), *(Path(name).read_bytes() for name in names)]


def test_orthanc_sends_to_the_lake_searches_it_and_fetches_again(tmp_path, lake):
    """Instances go out by STOW-RS and come back by WADO-RS with the same values and pixels."""
    with orthanc(tmp_path / "orthanc", lake.url, token("user")) as other:
        sent = {other.call("POST", "/instances", one)["ID"]: one for one in samples()}
        assert len(sent) == len(SAMPLES) + 1
        other.call("POST", "/dicom-web/servers/lake/stow", {"Resources": list(sent), "Synchronous": True})
        assert until(lambda: len(lake.current()) == len(sent))

        found = other.call("POST", "/dicom-web/servers/lake/qido", {"Uri": "/studies"})
        studies = [one["0020000D"]["Value"] for one in found]
        assert sorted(studies) == sorted(
            {str(dcmread(io.BytesIO(one)).StudyInstanceUID) for one in sent.values()}
        )
        name = {"Uri": "/studies", "Arguments": {"PatientName": "müller*"}}
        (one,) = other.call("POST", "/dicom-web/servers/lake/qido", name)
        assert one["00100010"]["Value"] == "Müller^Änne"

        for identifier in sent:
            other.call("DELETE", f"/instances/{identifier}")
        assert other.call("GET", "/instances") == []
        resources = [{"Study": study} for study in studies]
        wanted = {"Resources": resources, "Synchronous": True}
        other.call("POST", "/dicom-web/servers/lake/retrieve", wanted)
        assert set(other.call("GET", "/instances")) == set(sent)
        for identifier, one in sent.items():
            before, after = (
                dcmread(io.BytesIO(content))
                for content in (one, other.call("GET", f"/instances/{identifier}/file"))
            )
            assert after.PatientName == before.PatientName
            assert after.SOPInstanceUID == before.SOPInstanceUID
            if after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID:
                assert after.get("PixelData") == before.get("PixelData")
            elif "PixelData" in before:
                assert (after.pixel_array == before.pixel_array).all()


def test_orthanc_with_a_token_that_may_only_read_stores_nothing(tmp_path, lake):
    with orthanc(tmp_path / "orthanc", lake.url, token("read-only")) as other:
        identifier = other.call("POST", "/instances", data.ct())["ID"]
        body = {"Resources": [identifier], "Synchronous": True}
        with pytest.raises(AssertionError, match="plugin engine"):
            other.call("POST", "/dicom-web/servers/lake/stow", body)
        asked = [line for line in lake.lines() if line.get("method") == "POST" and "http_status" in line]
        assert {line["http_status"] for line in asked} == {403}
        assert lake.current() == {}


def test_the_documented_use_of_dicomweb_client_runs(tmp_path, lake):
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/viewers.md").read_text(), re.M | re.S)
    assert "http://127.0.0.1:8080" in code
    shutil.copy(str(get_testdata_file("CT_small.dcm", download=False)), tmp_path / "CT_small.dcm")
    code = code.replace("http://127.0.0.1:8080", lake.url)
    environment = {**lake.env, "TOKEN": token("user")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "CompressedSamples^CT1 CT",
        "128 128 1.2.840.10008.1.2.1",
        "(128, 128) 128 2191",
    ]
