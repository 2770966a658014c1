"""182 pushes, good and hostile, with and without valid tokens, over real HTTP."""

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import google_crc32c
from pydicom.data import get_testdata_file

from app.api import server
from app.services import open_services
from tests.conftest import lake_settings
from tests.parts import shared
from tests.processes import PATIENCE_S

AUDIENCE, ACCOUNT = "https://dicomlake.example/push", "push@p.iam.gserviceaccount.com"
CLASSES = {
    "row": {204},
    "ignore": {204},
    "dead": {400, 413, 422},
    "deny": {401, 403},
    "refuse": {400, 404, 405, 411, 413, 415, 431},
}
# Names that a bucket may hold and a folder cannot: refused, never written anywhere else.
NO_PATHS = {f"attr/object_{kind}" for kind in ("nul", "dotdot", "abs", "url", "long", "wildcard")}
OTHERWISE = {
    "http/get": {200},  # name and version
    "token/size_100k": {401, 431},
    "http/headers_64k": {431},
    "http/text_plain": {415},
    # the payload is not needed, so these may also end as the row that the attributes ask for
    **{
        f"data/{kind}": {204, 400}
        for kind in ("not_base64", "urlsafe_alphabet", "no_padding", "number", "list", "empty", "whitespace")
    },
    "data/size_5tb": {422, 503},
    "attr/event_OBJECT_METADATA_UPDATE": {204},
    # what they say is removed is there
    "attr/event_OBJECT_DELETE": {400},
    "attr/event_OBJECT_ARCHIVE": {400},
    "attr/overwritten_by": {400},
}


@contextmanager
def key_server(folder):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}/jwks.json"
    web.shutdown()
    web.server_close()


@contextmanager
def serving(settings):
    services = open_services(settings)
    with server.listen("127.0.0.1", 0) as sock:
        http = server.make_server(services)
        thread = threading.Thread(target=http.run, kwargs={"sockets": [sock]})
        thread.start()
        yield services, sock.getsockname()[1]
        http.should_exit = True
        thread.join(PATIENCE_S)


def answer(port, request, body):
    """Send a request as it was written down; 0 stands for a connection that was closed instead."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.putrequest(request["method"], "/", skip_accept_encoding=True)
        names = {name.lower() for name, _ in request["headers"]}
        for name, value in request["headers"]:
            connection.putheader(name, value)
        if "content-length" not in names and "transfer-encoding" not in names:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        with suppress(BrokenPipeError, ConnectionResetError):  # it refused before reading
            connection.send(body)
        return connection.getresponse().status
    except (HTTPException, OSError):
        return 0
    finally:
        connection.close()


def announced_object():
    """Return a DICOM file of the size and checksum that the pushes announce: 9,216 bytes, CRC32C 0."""
    plan = Path(get_testdata_file("rtplan.dcm")).read_bytes()
    padding = 9216 - len(plan) - 8
    head = plan + struct.pack("<HHL", 0xFFFC, 0xFFFC, padding) + bytes(padding - 4)
    # A CRC is linear in its bits: find the last four bytes by elimination over the effect of each bit.
    zero = google_crc32c.value(head + bytes(4))
    rows = {}
    for bit in range(32):
        effect, mask = google_crc32c.value(head + (1 << bit).to_bytes(4, "little")) ^ zero, 1 << bit
        for top, (known, known_mask) in sorted(rows.items(), reverse=True):
            if effect >> top & 1:
                effect, mask = effect ^ known, mask ^ known_mask
        rows[effect.bit_length() - 1] = (effect, mask)
    left, tail = zero, 0
    for top, (known, known_mask) in sorted(rows.items(), reverse=True):
        if left >> top & 1:
            left, tail = left ^ known, tail ^ known_mask
    data = head + tail.to_bytes(4, "little")
    assert (len(data), google_crc32c.value(data)) == (9216, 0)
    return data


def put(landing, body):
    """Make the object that a push is about, where a folder can hold it."""
    with suppress(ValueError, KeyError, TypeError, OSError, RecursionError):
        name = json.loads(body)["message"]["attributes"]["objectId"]
        path = landing / name
        if path.resolve().is_relative_to(landing) and not name.startswith("/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(announced_object())
            os.utime(path, ns=(1700000000000001, 1700000000000001))


def test_every_push_ends_in_its_class(tmp_path):
    script = shared("tools", "badinputs") / "badpush.py"
    out = tmp_path / "pushes"
    words = ["--now", str(int(time.time())), "--aud", AUDIENCE, "--email", ACCOUNT]
    subprocess.run([sys.executable, str(script), "--out", str(out), *words], check=True, capture_output=True)
    requests = [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]
    wrong, table = [], Counter()
    with key_server(out) as keys:
        settings = lake_settings(
            tmp_path,
            source__url=f"file:{tmp_path / 'dicom-in'}",
            api__auth="oidc",
            api__audience=AUDIENCE,
            api__service_accounts=[ACCOUNT],
            api__keys_url=keys,
            bus__subscription=subscription(requests, out),
        )
        with serving(settings) as (services, port):
            landing = tmp_path / "dicom-in"
            for request in requests:
                body = (out / request["body_file"]).read_bytes()
                put(landing, body)
                begin = time.process_time()
                status = answer(port, request, body)
                cpu_s = time.process_time() - begin  # of the service too: it is a thread of this process
                table[(request["expect"], status)] += 1
                allowed = OTHERWISE.get(request["name"], CLASSES[request["expect"]])
                if request["name"] in NO_PATHS or any(map(request["name"].startswith, NO_PATHS)):
                    allowed = allowed | {204, 400, 422}
                if request["expect"] in ("refuse", "deny") and len(body) > 1_000_000:
                    allowed = allowed | {0}
                if status not in allowed or cpu_s > 2:
                    wrong.append((request["name"], request["expect"], status, round(cpu_s, 1)))
            for (expect, status), count in sorted(table.items()):
                print(f"{expect:8} {status:4} {count:5}")
            assert wrong == []
            doubles = services.warehouse.query(
                "SELECT object_uri FROM instances_current GROUP BY object_uri HAVING count(*) > 1"
            )
            assert doubles == []


def subscription(requests, out):
    control = next(request for request in requests if request["name"] == "control/finalize")
    return json.loads((out / control["body_file"]).read_text())["subscription"]
