"""BigQuery when the network fails or the service refuses."""

import socket
import threading
import time
from contextlib import suppress

import pytest

from app.model.errors import WarehouseUnavailable
from app.warehouse import open_warehouse
from app.warehouse.bigquery import write_api
from app.warehouse.bigquery.appending import Answer
from app.warehouse.bigquery.url import read_url
from app.warehouse.bigquery.write_api import StorageWriter
from tests.warehouse.conftest import PROJECT
from tests.warehouse.contract import count, failure_row, instance_row


class Hole:
    """A way to a host that forgets its connections without a word when it is told to."""

    def __init__(self, host: str) -> None:
        self._host, self._port = host.split(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._forgotten: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Hole":
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def swallow(self) -> None:
        """Pass nothing more on of what is open."""
        self._forgotten |= set(self._open)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((self._host, int(self._port)))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                if near not in self._forgotten:
                    far.sendall(data)


pytestmark = pytest.mark.xdist_group("cloud")


@pytest.fixture
def warehouse(bigquery):
    return bigquery


class TestFailures:
    """What the network and the service do."""

    def test_the_connection_is_kept(self, front, warehouse):
        for i in range(5):
            warehouse.append("instances", [instance_row(f"r{i}")])
        warehouse.append("failures", [failure_row()])
        assert front.calls == 2

    def test_a_connection_that_was_closed_while_idle_is_opened_again(self, front, warehouse):
        for i in range(3):
            front.failures = ["hang_up"]
            warehouse.append("instances", [instance_row(f"r{i}")])
        assert front.calls == 3
        assert count(warehouse, "instances") == 3

    def test_one_failure_in_passing_is_not_seen(self, front, warehouse):
        warehouse.append("instances", [instance_row("r1")])
        front.failures = ["unavailable"]
        warehouse.append("instances", [instance_row("r2", "gs://b/2")])
        assert count(warehouse, "instances_current") == 2

    def test_rows_whose_answer_is_lost_count_once(self, front, warehouse):
        front.failures = ["lost_answer"]
        warehouse.append("instances", [instance_row("r1"), instance_row("r2", "gs://b/2")])
        assert count(warehouse, "instances_current") == 2

    def test_a_service_that_is_down_is_told_after_three_attempts_and_the_next_append_passes(
        self, front, warehouse
    ):
        front.failures = ["unavailable"] * 3
        with pytest.raises(WarehouseUnavailable, match=r"^BigQuery \(UNAVAILABLE\)$"):
            warehouse.append("instances", [instance_row("r1")])
        warehouse.append("instances", [instance_row("r1")])
        assert count(warehouse, "instances") == 1

    @pytest.mark.parametrize("status", ["permission_denied", "resource_exhausted", "unauthenticated"])
    def test_what_does_not_pass_by_itself_is_told_at_once(self, front, warehouse, status):
        front.failures = [status]
        with pytest.raises(WarehouseUnavailable, match=rf"^BigQuery \({status.upper()}\)$"):
            warehouse.append("instances", [instance_row("r1")])
        assert front.asked == ["AppendRows 1"]

    def test_an_answer_that_never_comes_ends_the_wait_and_the_next_append_passes(self, front, dataset):
        writer = StorageWriter(read_url(front.url(dataset)), timeout_s=0.5)
        body = writer.pack("failures", failure_row())
        front.failures = ["silent"]
        with pytest.raises(WarehouseUnavailable, match="DEADLINE_EXCEEDED"):
            writer.send("failures", [body])
        assert writer.send("failures", [body]) == Answer()
        writer.close()

    def test_a_connection_that_was_forgotten_on_the_way_is_given_up(self, front, dataset, monkeypatch):
        hasty = [(name, min(value, 1000)) for name, value in write_api.CHANNEL]
        monkeypatch.setattr(write_api, "CHANNEL", hasty)
        with Hole(front.grpc) as hole:
            writer = StorageWriter(read_url(front.url(dataset, write_endpoint=hole.url)), timeout_s=20)
            body = writer.pack("failures", failure_row())
            assert writer.send("failures", [body]) == Answer()
            time.sleep(0.5)  # until what the ends ask each other has its answer
            hole.swallow()
            assert writer.send("failures", [body]) == Answer()
            writer.close()

    def test_nobody_listens(self, dataset):
        nowhere = "http://127.0.0.1:1"
        warehouse = open_warehouse(f"bigquery:{dataset}?write_endpoint={nowhere}&endpoint={nowhere}")
        with pytest.raises(WarehouseUnavailable):
            warehouse.append("instances", [instance_row("r1")])
        with pytest.raises(WarehouseUnavailable):
            warehouse.check()
        warehouse.close()

    def test_a_dataset_without_tables_is_unavailable_not_a_fault_of_the_row(self, front):
        warehouse = open_warehouse(front.url(f"{PROJECT}.nowhere"))
        for call in (lambda: warehouse.append("instances", [instance_row("r1")]), warehouse.check):
            with pytest.raises(WarehouseUnavailable):
                call()
        warehouse.close()

    def test_a_table_of_an_older_version_is_unavailable_not_a_fault_of_the_row(self, front):
        front.emulator.create_dataset(PROJECT, "older", without=("app_version",))
        warehouse = open_warehouse(front.url(f"{PROJECT}.older"))
        with pytest.raises(WarehouseUnavailable, match="SCHEMA_MISMATCH_EXTRA_FIELDS"):
            warehouse.append("instances", [instance_row("r1")])
        warehouse.close()

    def test_who_may_start_no_job_may_append_and_not_ask(self, front, warehouse):
        front.may_ask = False
        warehouse.append("instances", [instance_row("r1")])
        with pytest.raises(WarehouseUnavailable, match=r"^BigQuery \(accessDenied\)$"):
            warehouse.query("SELECT 1 AS one")

    @pytest.mark.parametrize("failure", ["quota", "400 resourceInUse", "400 tableUnavailable"])
    def test_what_may_pass_is_transient_whatever_its_status(self, front, warehouse, failure):
        reason = {"quota": "quotaExceeded"}.get(failure, failure.removeprefix("400 "))
        for call in (
            lambda: warehouse.query("SELECT 1 AS one"),
            lambda: warehouse.delete("dead_letter", "message_id", ["m"]),
        ):
            front.failures = [failure] * 3
            with pytest.raises(WarehouseUnavailable, match=rf"^BigQuery \({reason}\)$"):
                call()

    def test_after_close_every_call_is_refused(self, warehouse):
        warehouse.append("instances", [instance_row("r1")])
        warehouse.close()
        for call in (lambda: warehouse.append("instances", [instance_row("r1")]), warehouse.check):
            with pytest.raises(WarehouseUnavailable):
                call()
        warehouse.close()

    def test_a_query_survives_a_failure_in_passing(self, front, warehouse):
        front.failures = ["unavailable"]
        assert warehouse.query("SELECT 1 AS one") == [{"one": 1}]
