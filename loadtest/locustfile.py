"""Three kinds of users, each without a pause between its requests. Only HTTP: the service may be anywhere.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8080 Searches

`Pushes` needs DICOMLAKE_LOAD_EVENT: a file with one push of an object that exists there, as JSON.
"""

from __future__ import annotations

import io
import json
import os
from itertools import count
from pathlib import Path

from locust import HttpUser, constant, task
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

SAMPLE = Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes()
_numbers = count(1)


def another_instance() -> bytes:
    """Return a CT slice of 39 KB with a UID of its own."""
    dataset = dcmread(io.BytesIO(SAMPLE))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    written = io.BytesIO()
    dataset.save_as(written)
    return written.getvalue()


class Pushes(HttpUser):
    """Pub/Sub, with another metageneration each time: each push is described, and makes a row of its own."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Read the push that is varied."""
        self.event = json.loads(Path(os.environ["DICOMLAKE_LOAD_EVENT"]).read_text())

    @task
    def push(self) -> None:
        """Push one event; anything but an acknowledgement is a failure."""
        number = str(next(_numbers))
        self.event["message"]["messageId"] = number
        self.event["message"]["attributes"]["metageneration"] = number
        with self.client.post("/", json=self.event, name="POST /", catch_response=True) as answer:
            if answer.status_code != 204:
                answer.failure(f"status {answer.status_code}")


class Uploads(HttpUser):
    """People at the page, each with a file that the lake does not have."""

    wait_time = constant(0)

    @task
    def upload(self) -> None:
        """Upload one file."""
        files = {"files": ("ct.dcm", another_instance(), "application/dicom")}
        self.client.post("/upload", files=files, name="POST /upload")


class Searches(HttpUser):
    """People and viewers that look for studies."""

    wait_time = constant(0)

    @task
    def search(self) -> None:
        """Search by modality and by a part of a name, on both interfaces."""
        self.client.get("/search?modality=CT&patient_name=comp&limit=50", name="GET /search")

    @task
    def studies(self) -> None:
        """Search studies as a viewer does."""
        self.client.get("/dicomweb/studies?ModalitiesInStudy=CT&limit=50", name="GET /dicomweb/studies")
