"""Which headers name a trace, by the examples of the W3C and of Google."""

import pytest

from app.telemetry.trace import trace_fields

TRACE, SPAN, SAMPLED = (f"logging.googleapis.com/{name}" for name in ("trace", "spanId", "trace_sampled"))


# https://www.w3.org/TR/trace-context/#examples-of-http-traceparent-headers
@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False)])
def test_the_header_of_the_w3c(flags, sampled):
    given = f"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}"
    assert trace_fields(given, "", "my-project") == {
        TRACE: "projects/my-project/traces/4bf92f3577b34da6a3ce929d0e0e4736",
        SPAN: "00f067aa0ba902b7",
        SAMPLED: sampled,
    }


# https://cloud.google.com/trace/docs/trace-context#legacy-http-header; the span is a decimal number.
@pytest.mark.parametrize(
    ("given", "span", "sampled"),
    [
        ("105445aa7843bc8bf206b12000100000/1;o=1", "0000000000000001", True),
        ("105445aa7843bc8bf206b12000100000/18446744073709551615;o=0", "ffffffffffffffff", False),
        ("105445aa7843bc8bf206b12000100000/1", "0000000000000001", False),
        ("105445aa7843bc8bf206b12000100000", None, False),
        ("105445AA7843BC8BF206B12000100000/0;o=1", None, True),
        ("105445aa7843bc8bf206b12000100000/18446744073709551616", None, False),
    ],
)
def test_the_header_of_google(given, span, sampled):
    found = trace_fields("", given, "p")
    assert found[TRACE] == "projects/p/traces/105445aa7843bc8bf206b12000100000"
    assert (found.get(SPAN), found[SAMPLED]) == (span, sampled)


def test_the_w3c_wins_and_without_a_project_the_id_stands_alone():
    both = trace_fields(
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "105445aa7843bc8bf206b12000100000/1;o=0",
        "",
    )
    assert both == {TRACE: "0af7651916cd43dd8448eb211c80319c", SPAN: "b7ad6b7169203331", SAMPLED: True}


# https://www.w3.org/TR/trace-context/#versioning-of-traceparent: more fields are for versions to come.
def test_a_later_version_is_read_by_its_first_four_fields():
    later = "cc-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like"
    assert trace_fields(later, "", "")[TRACE] == "12345678901234567890123456789012"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
        'forged", "severity": "ALERT',
        "\N{ARABIC-INDIC DIGIT ONE}" * 32,
    ],
)
def test_what_is_no_trace_is_left_out(given):
    assert trace_fields(given, given, "p") == {}
