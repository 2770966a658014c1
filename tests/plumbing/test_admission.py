"""Who is let in: bytes in flight have a budget, and a disk that is nearly full takes nothing more."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydicom.data import get_testdata_file

from app.api import create_app
from app.jobs import ingest
from app.model.errors import OutOfSpace, Overloaded
from app.model.values import Content, ObjectRef
from app.plumbing.admission import Budget, Space, cost, estimate
from app.services import open_services
from tests.conftest import lake_settings
from tests.processes import PATIENCE_S, wait_until
from tests.pushes import wrapped

MIB = 1 << 20
REF = ObjectRef("landing", "a.dcm", 1)


def test_past_the_budget_is_refused_at_once_and_room_comes_back():
    budget = Budget(100)
    with budget.hold(60), budget.hold(40), pytest.raises(Overloaded, match="100 bytes"), budget.hold(1):
        pass
    with budget.hold(100):
        pass


def test_what_is_larger_than_the_budget_is_let_in_alone():
    budget = Budget(100)
    with budget.hold(500), pytest.raises(Overloaded), budget.hold(1):
        pass
    with budget.hold(1), pytest.raises(Overloaded), budget.hold(500):
        pass


def test_no_budget_refuses_nothing():
    budget = Budget(0)
    with ExitStack() as held:
        for _ in range(100):
            held.enter_context(budget.hold(1 << 40))


def test_what_was_held_is_given_back_after_an_error_and_as_corrected():
    budget = Budget(100)
    with pytest.raises(ZeroDivisionError), budget.hold(60) as correct:
        correct(1 // 0)
    with budget.hold(90) as correct:
        correct(10)
        with budget.hold(90):
            pass
        correct(100)
        with pytest.raises(Overloaded), budget.hold(1):
            pass
    with budget.hold(100):
        pass


def test_a_correction_is_never_refused():
    budget = Budget(100)
    with budget.hold(50), budget.hold(50) as correct:
        correct(500)
        with pytest.raises(Overloaded), budget.hold(1):
            pass
    with budget.hold(100):
        pass


def test_who_is_patient_waits_for_room():
    budget = Budget(100, patience_s=60)
    inside, leave = threading.Event(), threading.Event()

    def first():
        with budget.hold(80):
            inside.set()
            assert leave.wait(PATIENCE_S)

    def second():
        with budget.hold(30):
            return leave.is_set()

    with ThreadPoolExecutor() as pool:
        pool.submit(first)
        assert inside.wait(PATIENCE_S)
        waiting = pool.submit(second)
        time.sleep(0.1)
        assert not waiting.done()
        leave.set()
        assert waiting.result(PATIENCE_S) is True


def test_a_large_object_is_not_overtaken_by_a_stream_of_small_ones():
    budget, order, inside = Budget(100, patience_s=60), [], threading.Event()
    leave = {name: threading.Event() for name in ("first", "large", "small")}

    def take(name, size):
        with budget.hold(size):
            order.append(name)
            inside.set()
            assert leave[name].wait(60)

    with ThreadPoolExecutor() as pool:
        pool.submit(take, "first", 60)
        assert inside.wait(60)
        tasks = []
        for waiting, (name, size) in enumerate([("large", 90), ("small", 10)], start=1):
            tasks.append(pool.submit(take, name, size))
            assert wait_until(lambda wanted=waiting: len(budget._queue) == wanted, 60)
        for name in leave:
            leave[name].set()
        for task in tasks:
            task.result(60)
    assert order == ["first", "large", "small"]


def test_nobody_waits_longer_than_the_delivery_has_left():
    budget = Budget(100, patience_s=3600)
    with budget.hold(100), pytest.raises(Overloaded), budget.hold(1, wait_s=0):
        pass
    with budget.hold(100):
        pass


def test_threads_never_hold_more_than_the_budget():
    budget, held, most, lock = Budget(5, patience_s=60), [0], [0], threading.Lock()

    def work(_):
        with budget.hold(2):
            with lock:
                held[0] += 2
                most[0] = max(most[0], held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= 2

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    assert (held[0], most[0]) == (0, 4)


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 0), (64 * MIB, 64 * MIB), (64 * MIB + 1, 4 * MIB), (None, 64 * MIB)]
)
def test_an_object_is_estimated_by_its_announced_size_and_a_big_one_by_its_buffers(size, expected):
    assert estimate(size) == expected


def test_an_object_costs_its_bytes_and_one_that_is_read_in_ranges_only_its_buffers():
    assert cost(Content(REF, "", 3, data=b"abc")) == 3
    assert cost(Content(REF, "", 1 << 40, opener=open)) == 4 * MIB


@pytest.fixture
def landed(services):
    path = Path(services.source.uri("ct.dcm").removeprefix("file://"))
    path.write_bytes(Path(get_testdata_file("CT_small.dcm")).read_bytes())
    return path


def client_of(services, **changes):
    return TestClient(create_app(replace(services, **changes)))


def test_an_event_past_the_budget_is_429_and_goes_when_there_is_room(services, landed):
    budget = Budget(40_000)  # the file has 39,206 bytes
    client = client_of(services, budget=budget)
    with budget.hold(1000):
        answer = client.post("/", json=wrapped(landed))
        assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
    with budget.hold(794):
        assert client.post("/", json=wrapped(landed)).status_code == 204
    with budget.hold(40_000):
        pass


def test_an_event_waits_for_room_and_is_stored_without_a_failure(services, landed):
    budget = Budget(40_000, patience_s=60)
    client = client_of(services, budget=budget)
    with ThreadPoolExecutor(1) as pool:
        with budget.hold(1000):
            pushed = pool.submit(client.post, "/", json=wrapped(landed))
            assert wait_until(lambda: budget._queue, 60)
        assert pushed.result(60).status_code == 204
    assert services.warehouse.query("SELECT code FROM failures") == []


@pytest.mark.parametrize(("attempt", "codes"), [(1, []), (9, []), (10, ["overloaded"]), (19, ["overloaded"])])
def test_only_an_event_that_long_finds_no_room_is_a_failure(services, landed, attempt, codes):
    budget = Budget(40_000)
    with budget.hold(1000):
        answer = client_of(services, budget=budget).post("/", json=wrapped(landed, attempt=attempt))
    assert answer.status_code == 429
    assert [row["code"] for row in services.warehouse.query("SELECT code FROM failures")] == codes


def test_the_budget_is_that_of_the_settings(tmp_path):
    settings = lake_settings(tmp_path, workers__inflight_bytes=10)
    with closing(open_services(settings)) as services, services.budget.hold(5):
        with pytest.raises(Overloaded), services.budget.hold(6, wait_s=0):
            pass
        with services.budget.hold(5):
            pass


def test_the_command_line_waits_for_room_and_stores_all(tmp_path):
    data = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    (tmp_path / "files").mkdir()
    for number in range(8):
        (tmp_path / "files" / f"{number}.dcm").write_bytes(data)
    lines = []
    with closing(open_services(lake_settings(tmp_path, workers__inflight_bytes=1))) as services:
        assert ingest.ingest([tmp_path / "files"], services, lines.append) == {"files": 8, "stored": 8}
        with services.budget.hold(1), pytest.raises(Overloaded), services.budget.hold(1, wait_s=0):
            pass


def test_an_event_for_a_disk_that_is_nearly_full_is_507_with_its_reason(services, landed, tmp_path):
    answer = client_of(services, space=Space([tmp_path], 1 << 60)).post("/", json=wrapped(landed))
    assert (answer.status_code, answer.json()["code"]) == (507, "out_of_space")
    assert services.warehouse.query("SELECT code FROM failures") == [{"code": "out_of_space"}]
    assert client_of(services).post("/", json=wrapped(landed)).status_code == 204


def test_the_places_that_are_written_to_are_watched(tmp_path):
    with closing(open_services(lake_settings(tmp_path, delivery__min_free_bytes=1 << 60))) as services:
        with pytest.raises(OutOfSpace):
            services.space.check()
        with pytest.raises(OutOfSpace):
            services.bus.check()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_disk_with_less_than_it_must_have_takes_nothing(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    Space([tmp_path], free // 2).check()
    with pytest.raises(OutOfSpace, match=rf"less than {2 * free} bytes are free in {tmp_path}"):
        Space([tmp_path], 2 * free).check()
    Space([tmp_path], 0).check()
    Space([], 2 * free).check()


def test_a_folder_that_is_not_there_is_not_a_full_disk(tmp_path):
    Space([tmp_path / "nowhere"], 1).check()


def test_free_space_is_asked_for_once_a_second(tmp_path):
    folder, clock = tmp_path / "output", Clock()
    folder.mkdir()
    space = Space([folder], 1 << 60, clock)
    with pytest.raises(OutOfSpace):
        space.check()
    folder.rmdir()  # nothing that is asked for from here on is full
    clock.now = 0.99
    with pytest.raises(OutOfSpace):
        space.check()
    clock.now = 1.0
    space.check()
