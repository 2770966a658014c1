"""A real Orthanc for tests, in a scratch folder. It binds every address but answers only this machine."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.parts import need
from tests.processes import wait_until
from tests.system.e2e.service import free_port

USER = ("lake", "secret")


class Orthanc:
    """One server; `stop` and `start` restart it, `drop_database` makes it begin anew."""

    def __init__(self, folder: Path, **options: object) -> None:
        program = shutil.which("Orthanc")
        need("Orthanc", program is not None, "apt-get install orthanc")
        self.program, self.folder, self.port = str(program), folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = folder / "database"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        settings = {
            "StorageDirectory": str(self.database),
            "IndexDirectory": str(self.database),
            "Plugins": [],
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": dict([USER]),
            "StableAge": 1,
            **options,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.client = httpx.Client(base_url=self.url, auth=USER, timeout=60)

    def __enter__(self) -> Orthanc:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.client.close()

    def start(self) -> Orthanc:
        with (self.folder / "log").open("ab") as log:
            command = [self.program, str(self.folder / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        assert wait_until(self.answers), (self.folder / "log").read_text()
        return self

    def answers(self) -> bool:
        try:
            return self.client.get("/system").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    def drop_database(self) -> None:
        """Lose everything, as after a reinstallation; the server must be down."""
        shutil.rmtree(self.database)

    def upload(self, data: bytes) -> str:
        """Store an instance and return its ID."""
        answer = self.client.post("/instances", content=data).raise_for_status().json()
        return str(answer["ID"])

    def study_of(self, instance: str) -> str:
        return str(self.client.get(f"/instances/{instance}/study").raise_for_status().json()["ID"])

    def last_change(self) -> int:
        return int(self.client.get("/changes?since=999999999&limit=1").raise_for_status().json()["Last"])


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return the files of a certificate for this machine and of its key, made for this test."""
    need("openssl", shutil.which("openssl") is not None, "apt-get install openssl")
    made, key = folder / "certificate.pem", folder / "key.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    command = ["openssl", "req", "-x509", *options, "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True)
    return made, key


@contextmanager
def behind_tls(port: int, certificate: Path, key: Path) -> Iterator[str]:
    """Yield an https address in front of a port, as nginx gives: Debian's Orthanc crashes on https itself."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65_536):
                target.sendall(chunk)
            target.shutdown(socket.SHUT_RDWR)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection(("127.0.0.1", port)) as server,
            ):
                threading.Thread(target=pump, args=(server, client), daemon=True).start()
                pump(client, server)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as front:
        front.daemon_threads = True
        threading.Thread(target=front.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{front.server_address[1]}"
        front.shutdown()
