"""What a scrape shows."""

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.events import ignored
from app.model.values import EventType, ObjectEvent, ObjectRef, Stage, Status
from app.telemetry.metrics import Metrics

EVENT = ObjectEvent(
    type=EventType.FINALIZE,
    ref=ObjectRef("b", "a.dcm", 1),
    time=datetime(2024, 2, 29, tzinfo=UTC),
)


def scrape(metrics):
    """Return the samples as a dict from name and labels to value."""
    text, _ = metrics.render()
    samples = [line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in samples}


def test_a_stored_event_is_counted_by_type_status_and_code():
    metrics = Metrics()
    metrics.event(EVENT, Status.STORED, "", 0.02)
    samples = scrape(metrics)
    assert samples['dicomlake_events_total{code="",status="stored",type="OBJECT_FINALIZE"}'] == 1
    assert samples['dicomlake_stage_seconds_count{stage="total"}'] == 1
    assert samples['dicomlake_stage_seconds_bucket{le="0.01",stage="total"}'] == 0
    assert samples['dicomlake_stage_seconds_bucket{le="0.025",stage="total"}'] == 1


def test_a_version_with_a_lower_generation_than_what_it_replaced_is_counted():
    metrics = Metrics()
    metrics.event(EVENT, Status.STORED, "", 0.02)
    assert scrape(metrics)["dicomlake_generations_fall_total"] == 0
    metrics.event(replace(EVENT, overwrote=EVENT.ref.generation + 1), Status.STORED, "", 0.02)
    assert scrape(metrics)["dicomlake_generations_fall_total"] == 1


def test_what_was_no_event_is_counted_as_unknown():
    metrics = Metrics()
    metrics.event(None, "failed", "bad_event", 0.0)
    assert scrape(metrics)['dicomlake_events_total{code="bad_event",status="failed",type="unknown"}'] == 1


def test_a_dead_letter_is_counted_by_its_reason():
    metrics = Metrics()
    metrics.event(EVENT, "dead_lettered", "bad_dataset", 0.1)
    assert scrape(metrics)['dicomlake_dead_letters_total{code="bad_dataset"}'] == 1


def test_steps_bytes_queue_and_deliveries_under_way_are_shown():
    metrics = Metrics()
    metrics.stage(Stage.DESCRIBE, 0.3)
    metrics.bytes(512)
    metrics.queue(3)
    with metrics.in_flight():
        inside = scrape(metrics)
    assert inside['dicomlake_stage_seconds_sum{stage="describe"}'] == 0.3
    assert inside["dicomlake_bytes_total"] == 512
    assert inside["dicomlake_queue"] == 3
    assert inside["dicomlake_in_flight"] == 1
    assert scrape(metrics)["dicomlake_in_flight"] == 0


def test_labels_stay_few_whatever_is_passed():
    metrics = Metrics()
    metrics.event(EVENT, "DOE^JANE", "DOE^JANE", 0.1)
    for number in range(1000):
        metrics.event(EVENT, "failed", f"code_{number}", 0.1)
    text = metrics.render()[0].decode()
    codes = {line.split('code="')[1].split('"')[0] for line in text.splitlines() if 'code="' in line}
    assert "DOE" not in text
    assert "other" in codes
    assert len(codes) <= 101


def test_codes_of_our_errors_are_kept_even_when_others_came_first():
    metrics = Metrics()
    for number in range(1000):
        metrics.event(EVENT, "failed", f"code_{number}", 0.1)
    metrics.event(EVENT, "failed", "storage_unavailable", 0.1)
    assert 'code="storage_unavailable"' in metrics.render()[0].decode()


def test_the_reason_for_ignoring_an_event_is_a_label():
    metrics = Metrics()
    metrics.event(EVENT, Status.IGNORED, ignored(EVENT, ("a",), tuple(EventType)), 0.0)
    assert 'code="own_artifact",status="ignored"' in metrics.render()[0].decode()


def test_two_services_count_apart():
    first, second = Metrics(), Metrics()
    first.bytes(1)
    assert scrape(second)["dicomlake_bytes_total"] == 0


def test_counts_from_threads_all_arrive():
    metrics = Metrics()
    work = [
        threading.Thread(target=lambda: [metrics.event(EVENT, "stored", "", 0.0) for _ in range(200)])
        for _ in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    key = 'dicomlake_events_total{code="",status="stored",type="OBJECT_FINALIZE"}'
    assert scrape(metrics)[key] == 1600


@pytest.mark.parametrize("part", ["text/plain", "charset=utf-8"])
def test_the_content_type_is_that_of_prometheus(part):
    assert part in Metrics().render()[1]
