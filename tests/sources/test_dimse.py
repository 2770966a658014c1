"""Instances arrive by C-STORE, from dcmtk and from peers that are hostile."""

import io
import shutil
import signal
import socket
import struct
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.model.errors import ConfigError
from app.model.options import DimseOptions
from app.plumbing.admission import Space
from app.services import open_services
from app.sources.dimse.part10 import Joined, file_meta
from app.sources.dimse.peers import Peers
from app.sources.landing import Landing
from app.storage import open_storage
from tests import data
from tests.conftest import lake_settings
from tests.orthanc import certificate
from tests.parts import ROOT, need
from tests.processes import wait_until
from tests.system.e2e.service import Service, free_port

need("pynetdicom", find_spec("pynetdicom") is not None, "make .venv/.test")

from pynetdicom import AE, NonPatientObjectPresentationContexts  # noqa: E402 - not before it is known
from pynetdicom.dimse_primitives import C_STORE  # noqa: E402

from app.sources.dimse.receiver import Receiver, check_dimse, object_name  # noqa: E402

HERE = "127.0.0.1"
PRIVATE_CLASS = "1.2.826.0.1.3680043.10.9.7"
OTHER_DATA = {"StudyDescription": "second"}
OPTIONS = DimseOptions(HERE, 0, "LAKE", (), 10, 20)


@contextmanager
def receiving(folder, min_free_bytes=0, max_object_bytes=0, **options):
    """Yield a receiver into `folder`/landing."""
    source = open_storage("source", f"file:{folder / 'landing'}")
    landing = Landing(source, "", Space([folder], min_free_bytes))
    with closing(Receiver(replace(OPTIONS, **options), landing, max_object_bytes)) as receiver:
        receiver.start()
        yield receiver


@pytest.fixture
def receiver(tmp_path):
    with receiving(tmp_path) as receiver:
        yield receiver


def landed(folder: Path) -> dict[str, bytes]:
    root = folder / "landing"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def dcmtk(program: str, receiver: Receiver | int, *words: object, called: str = "LAKE", ae: str = "CT1"):
    need(program, shutil.which(program) is not None, "apt-get install dcmtk")
    port = receiver if isinstance(receiver, int) else receiver.port
    command = [program, "-v", "-aet", ae, "-aec", called, HERE, str(port), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def written(folder: Path, **elements: object) -> Path:
    path = folder / "sent.dcm"
    path.write_bytes(data.ct(**elements))
    return path


def test_echo_is_answered(receiver):
    assert dcmtk("echoscu", receiver).returncode == 0


def test_an_instance_lands_by_sender_and_uid_with_its_data_set_as_sent(receiver, tmp_path):
    sent = written(tmp_path)
    assert dcmtk("storescu", receiver, sent).returncode == 0
    ((name, stored),) = landed(tmp_path).items()
    assert name == f"dimse/CT1/{data.SOP}.dcm"
    read, original = dcmread(io.BytesIO(stored)), dcmread(sent)
    assert read == original
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert read.file_meta.MediaStorageSOPInstanceUID == data.SOP
    assert read.file_meta.SourceApplicationEntityTitle == "CT1"
    ftest = subprocess.run(["dcmftest", str(tmp_path / "landing" / name)], capture_output=True, check=False)
    assert ftest.stdout.startswith(b"yes:")


def test_an_equal_instance_writes_nothing_and_another_one_a_new_version(receiver, tmp_path):
    dcmtk("storescu", receiver, written(tmp_path))
    path = tmp_path / f"landing/dimse/CT1/{data.SOP}.dcm"
    before = path.stat()
    assert dcmtk("storescu", receiver, tmp_path / "sent.dcm").returncode == 0
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert dcmtk("storescu", receiver, written(tmp_path, **OTHER_DATA)).returncode == 0
    assert dcmread(path).StudyDescription == "second"
    assert len(landed(tmp_path)) == 1


def test_two_senders_do_not_replace_what_the_other_sent(receiver, tmp_path):
    for title in ("CT1", "CT2"):
        assert dcmtk("storescu", receiver, written(tmp_path), ae=title).returncode == 0
    assert set(landed(tmp_path)) == {f"dimse/CT1/{data.SOP}.dcm", f"dimse/CT2/{data.SOP}.dcm"}


def test_compressed_instances_stay_as_they_are(receiver, tmp_path):
    names = ("MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm", "image_dfl.dcm")
    files = [Path(get_testdata_file(name, download=False)) for name in names]
    assert dcmtk("dcmsend", receiver, *files).returncode == 0
    stored = {
        one.file_meta.TransferSyntaxUID: one
        for one in map(dcmread, map(io.BytesIO, landed(tmp_path).values()))
    }
    sent = {one.file_meta.TransferSyntaxUID: one for one in map(dcmread, files)}
    assert stored.keys() == sent.keys()
    assert all(stored[syntax].get("PixelData") == sent[syntax].get("PixelData") for syntax in sent)


def test_objects_without_a_patient_are_taken_too(receiver, tmp_path):
    """PS3.4 table GG.3-1: hanging protocols, colour palettes and others, which are no images of anyone."""
    classes = [context.abstract_syntax for context in NonPatientObjectPresentationContexts]
    assert {"1.2.840.10008.5.1.4.38.1", "1.2.840.10008.5.1.4.39.1"} < set(classes)
    for number, sop_class in enumerate(classes):
        assert store(receiver, sop_class, f"1.2.{number}", syntax=ImplicitVRLittleEndian) == 0x0000
    stored = [dcmread(io.BytesIO(content)) for content in landed(tmp_path).values()]
    assert sorted(one.file_meta.MediaStorageSOPClassUID for one in stored) == sorted(classes)


def test_another_name_than_ours_is_rejected(receiver, tmp_path):
    result = dcmtk("echoscu", receiver, called="ELSE")
    assert result.returncode != 0
    assert "Called AE Title Not Recognized" in result.stderr


def test_only_listed_peers_may_send(tmp_path):
    with receiving(tmp_path, peers=("CT1@127.0.0.0/8", "*@10.0.0.1")) as receiver:
        assert dcmtk("echoscu", receiver).returncode == 0
        result = dcmtk("storescu", receiver, written(tmp_path), ae="CT2")
        assert "Calling AE Title Not Recognized" in result.stderr
    with receiving(tmp_path, peers=("*@10.0.0.1",)) as receiver:
        assert dcmtk("echoscu", receiver).returncode != 0
    assert landed(tmp_path) == {}


@pytest.mark.parametrize(
    ("peers", "title", "address", "admitted"),
    [
        ((), "X", "8.8.8.8", True),
        (("*@*",), "X", "8.8.8.8", True),
        (("CT1@*",), "CT1", "8.8.8.8", True),
        (("CT1@*",), "CT2", "8.8.8.8", False),
        (("*@10.0.0.0/24",), "X", "10.0.0.200", True),
        (("*@10.0.0.0/24",), "X", "10.0.1.1", False),
        (("*@10.0.0.0/24",), "X", "::ffff:10.0.0.7", True),
        (("CT1@10.0.0.1", "CT2@10.0.0.2"), "CT1", "10.0.0.2", False),
        (("A@B@fd00::1",), "A@B", "fd00::1", True),
        (("CT1@10.0.0.1",), " CT1 ", "10.0.0.1", True),
    ],
)
def test_peers_are_pairs_of_title_and_address(peers, title, address, admitted):
    assert Peers.parsed(peers).admits(title, address) is admitted


@pytest.mark.parametrize("entry", ["CT1", "@10.0.0.1", "CT1@", "CT1@host.example", "A\\B@*", f"{'A' * 17}@*"])
def test_a_peer_of_another_form_is_refused(entry):
    with pytest.raises(ConfigError, match=r"dimse\.peers: .* is not AE@ADDRESS"):
        Peers.parsed((entry,))


def test_anyone_may_send_on_loopback_alone():
    check_dimse(OPTIONS)
    check_dimse(replace(OPTIONS, host="0.0.0.0", peers=("*@*",)))
    with pytest.raises(ConfigError, match=r"dimse\.peers: is empty, so anyone"):
        check_dimse(replace(OPTIONS, host="0.0.0.0"))


@pytest.mark.parametrize(
    ("title", "folder"),
    [("CT1", "CT1"), ("../..", "_____"), ("A/B C.d", "A_B_C_d"), (".", "_"), ("PAD ", "PAD")],
)
def test_a_title_is_one_folder_whatever_it_is_called(title, folder):
    assert object_name(title, "1.2.3") == f"dimse/{folder}/1.2.3.dcm"


def test_file_meta_byte_for_byte():
    """PS3.10 7.1 by hand."""
    meta = file_meta("1.2.3", "1.2.34", "1.2.840.10008.1.2", "CT1")
    assert meta[:132] == bytes(128) + b"DICM"
    assert meta[132:144] == b"\x02\0\0\0UL\x04\0" + struct.pack("<I", len(meta) - 144)
    assert meta[144:158] == b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01"
    assert meta[158:172] == b"\x02\0\x02\0UI\x06\x001.2.3\0"
    assert meta[172:186] == b"\x02\0\x03\0UI\x06\x001.2.34"
    assert meta[186:212] == b"\x02\0\x10\0UI\x12\x001.2.840.10008.1.2\0"
    assert meta.endswith(b"\x02\0\x13\0SH\x0a\0DICOMLAKE \x02\0\x16\0AE\x04\0CT1 ")


def test_head_and_body_are_one_stream():
    stream = Joined(b"abc", io.BytesIO(b"defgh"))
    assert stream.seek(0, io.SEEK_END) == 8
    stream.seek(0)
    assert io.BufferedReader(stream, 4).read() == b"abcdefgh"
    stream.seek(2)
    assert (stream.read(1), stream.read(9), stream.read(1)) == (b"c", b"defgh", b"")


@contextmanager
def association(receiver, *classes, syntax=ExplicitVRLittleEndian, title="CT1", called="LAKE"):
    """Yield an association whose socket a test may misuse."""
    entity = AE(title)
    for sop_class in classes or (data.CT_CLASS,):
        entity.add_requested_context(sop_class, syntax)
    made = entity.associate(HERE, receiver.port, ae_title=called)
    assert made.is_established
    try:
        yield made
    finally:
        made.abort()


def store(receiver, sop_class=data.CT_CLASS, uid=data.SOP, content=None, syntax=ExplicitVRLittleEndian):
    """Send raw bytes as a data set and return the status."""
    with association(receiver, sop_class, syntax=syntax) as made:
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, uid
        request.DataSet = io.BytesIO(content or data.bare(data.ct_dataset(), syntax))
        made._reactor_checkpoint.clear()
        while not made._is_paused:
            pass
        made.dimse.send_msg(request, 1)
        _, answer = made.dimse.get_msg(block=True)
        made._reactor_checkpoint.set()
        return answer.Status if answer else None


def test_the_data_set_is_stored_byte_for_byte_even_if_it_is_none(receiver, tmp_path):
    noise = bytes(range(256)) * 2000
    assert store(receiver, content=noise, syntax=ImplicitVRLittleEndian) == 0x0000
    (stored,) = landed(tmp_path).values()
    assert stored == file_meta(data.CT_CLASS, data.SOP, "1.2.840.10008.1.2", "CT1") + noise


def test_a_large_instance_is_stored_whole(receiver, tmp_path):
    large = bytes(range(251)) * 40_000  # more than is held in memory
    assert store(receiver, content=large) == 0x0000
    (stored,) = landed(tmp_path).values()
    assert stored.endswith(large)


def test_a_private_class_is_taken(receiver, tmp_path):
    assert store(receiver, sop_class=PRIVATE_CLASS) == 0x0000
    assert len(landed(tmp_path)) == 1


@pytest.mark.parametrize("uid", ["../../../etc/x", "..", "...", "1.2/3", "1.2.x"])
def test_what_is_no_uid_names_no_file(receiver, tmp_path, uid):
    assert store(receiver, uid=uid) in (0xC000, None)
    assert landed(tmp_path) == {}
    assert not (tmp_path / "landing").exists() or list((tmp_path / "landing").iterdir()) == []


def test_a_full_disk_is_out_of_resources(tmp_path):
    with receiving(tmp_path, min_free_bytes=1 << 60) as receiver:
        assert store(receiver) == 0xA700
    assert landed(tmp_path) == {}


def test_no_room_for_the_file_is_out_of_resources(tmp_path):
    (tmp_path / "landing").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path / "landing")]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    need("a small file system", mounted, "run the tests as root with the right to mount tmpfs")
    try:
        with receiving(tmp_path) as receiver:
            assert store(receiver, content=bytes(1 << 20)) == 0xA700
            assert landed(tmp_path) == {}
            assert store(receiver) == 0x0000
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "landing")], check=True)


def test_a_data_set_over_the_limit_is_out_of_resources(tmp_path):
    with receiving(tmp_path, max_object_bytes=300_000) as receiver:
        assert store(receiver, content=bytes(300_001)) == 0xA700
        assert landed(tmp_path) == {}
        assert store(receiver, content=bytes(300_000)) == 0x0000


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def fragment(control: int, body: bytes, context: int = 1) -> bytes:
    return pdu(4, struct.pack(">LBB", len(body) + 2, context, control) + body)


def is_closed(sock: socket.socket) -> bool:
    """Return whether the other side ends the connection, whatever it says before."""
    sock.settimeout(60)
    try:
        while sock.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


HOSTILE = {
    "a PDU over the limit": [struct.pack(">BBL", 4, 0, 0xFFFFFFFF)],
    "an endless command set": [fragment(1, bytes(100_000))] * 3,
    "a command set that is noise": [fragment(3, b"\xff" * 64)],
    "a fragment of nothing": [pdu(4, struct.pack(">LB", 1, 1))],
    "an unknown PDU": [pdu(9, b"x")],
    "a context that was not agreed": [fragment(3, bytes(8), context=99)],
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_peer_is_cut_off_and_nobody_else_notices(tmp_path, said):
    with receiving(tmp_path, timeout_s=3.0) as receiver:
        with association(receiver) as made:
            made.dul._kill_thread = True  # our own side must not answer
            made.dul.join()
            sock = made.dul.socket.socket
            for one in said:
                sock.sendall(one)
            assert is_closed(sock)
        assert dcmtk("storescu", receiver, written(tmp_path)).returncode == 0


@pytest.mark.parametrize("begun", [b"", b"\x01", struct.pack(">BBL", 1, 0, 100)], ids=["none", "one", "half"])
def test_a_silent_peer_is_cut_off(tmp_path, begun):
    with (
        receiving(tmp_path, timeout_s=1.0) as receiver,
        socket.create_connection((HERE, receiver.port)) as sock,
    ):
        sock.sendall(begun)
        assert is_closed(sock)


def test_associations_are_limited_and_then_there_is_room_again(tmp_path):
    with receiving(tmp_path, max_associations=2) as receiver:
        with association(receiver), association(receiver):
            result = dcmtk("echoscu", receiver)
            assert "Local Limit Exceeded" in result.stderr
        assert wait_until(lambda: dcmtk("echoscu", receiver).returncode == 0)


def test_connections_are_limited_too(tmp_path):
    with receiving(tmp_path, max_associations=1, timeout_s=3.0) as receiver:
        silent = [socket.create_connection((HERE, receiver.port)) for _ in range(1 + 8)]
        try:
            with socket.create_connection((HERE, receiver.port)) as sock:
                assert is_closed(sock)
        finally:
            for one in silent:
                one.close()
        assert wait_until(lambda: dcmtk("echoscu", receiver).returncode == 0)


def test_tls_and_a_silent_client_that_holds_up_nobody(tmp_path):
    made, key = certificate(tmp_path)
    files = {"certificate_file": str(made), "key_file": str(key)}
    with (
        receiving(tmp_path, **files) as receiver,
        socket.create_connection((HERE, receiver.port)),
    ):
        trusted = ("--anonymous-tls", "+cf", made)
        assert dcmtk("echoscu", receiver, *trusted).returncode == 0
        assert dcmtk("storescu", receiver, *trusted, written(tmp_path)).returncode == 0
        assert len(landed(tmp_path)) == 1
        assert dcmtk("echoscu", receiver).returncode != 0
    both = {**files, "client_ca_file": str(made)}
    with receiving(tmp_path, **both) as receiver:
        assert dcmtk("echoscu", receiver, *trusted).returncode != 0
        known = ("+tls", key, made, "+cf", made)
        assert dcmtk("echoscu", receiver, *known).returncode == 0
    for wrong in ({"certificate_file": str(tmp_path / "none")}, {"key_file": str(key)}):
        with pytest.raises(ConfigError, match=r"dimse\.certificate_file"):
            check_dimse(replace(OPTIONS, **wrong))


def test_a_port_in_use_is_said(receiver, tmp_path):
    with (
        pytest.raises(ConfigError, match=rf"dimse\.port: port {receiver.port} on 127\.0\.0\.1 is in use"),
        receiving(tmp_path, port=receiver.port),
    ):
        pass


def test_without_the_package_it_is_said_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['pynetdicom'] = None\n"
        "from app import config; from app.services import open_dimse\n"
        f"places = {{'source.url': 'file:{tmp_path}/in', 'dimse.port': 11112}}\n"
        "try: open_dimse(config.load({}, places).settings).__enter__()\n"
        "except Exception as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout == "dimse.port: needs dicomlake[dimse]; pynetdicom is not installed\n"


def test_the_service_receives_and_the_pipeline_stores(tmp_path):
    port = free_port()
    with Service(tmp_path / "lake", dimse__port=port, dimse__ae_title="LAKE") as service:
        sent = written(tmp_path)
        assert dcmtk("storescu", port, sent).returncode == 0
        name = f"dimse/CT1/{data.SOP}.dcm"
        assert wait_until(lambda: name in service.current()), service.log.read_text()
        row = service.current()[name]
        assert (row["sop_instance_uid"], row["modality"], row["collection"]) == (data.SOP, "CT", "dimse")
        assert Path(str(row["preview_uri"]).removeprefix("file://")).read_bytes().startswith(b"\x89PNG")


def test_the_command_receives_without_a_lake_and_logs_no_value(tmp_path):
    canary = "KANARIE7"
    port = free_port()
    places = {"warehouse__url": "nowhere:x", "bus__url": "nowhere:x", "dimse__port": port}
    service = Service(tmp_path / "lake", **places, dimse__ae_title="LAKE", log__level="debug")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "receive"], cwd=ROOT, env=service.env, stdout=log, stderr=log
        )
    try:
        assert wait_until(lambda: b'"receiving"' in (tmp_path / "log").read_bytes())
        sent = written(tmp_path, PatientName=canary, StudyDescription=canary)
        assert dcmtk("storescu", port, sent, ae=canary).returncode == 0
        assert dcmtk("echoscu", port, called=canary).returncode != 0

        class At:
            pass

        At.port = port
        for said in HOSTILE.values():
            with association(At, title=canary) as made:
                made.dul._kill_thread = True
                made.dul.join()
                for one in [*said, fragment(3, canary.encode())]:
                    try:
                        made.dul.socket.socket.sendall(one)
                    except OSError:
                        break
        assert store(At, uid=canary) in (0xC000, None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert [path.name for path in (tmp_path / "lake/landing/dimse").iterdir()] == [canary]
    logged = (tmp_path / "log").read_text()
    assert "association ended" in logged
    assert canary not in logged, logged


def test_receive_says_what_is_missing(tmp_path):
    service = Service(tmp_path / "lake")
    result = service.run("receive")
    assert result.returncode == 2
    assert "dimse.port: is 0; give the port to listen on" in result.stderr
    with pytest.raises(ConfigError, match=r"dimse\.peers"):
        open_services(lake_settings(tmp_path, dimse__port=11112, dimse__host="0.0.0.0"))
