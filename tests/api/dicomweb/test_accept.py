"""Accept negotiation of PS3.18 8.7: what clients send, and which of our forms they get."""

import pytest

from app.api.dicomweb.accept import MediaRange, NotAcceptable, Offer, choose, media_ranges

EXPLICIT, JPEG, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
QIDO = [Offer("application/dicom+json"), Offer("application/json")]
RENDERED = [Offer("image/jpeg"), Offer("image/png"), Offer("image/gif")]
STORED = Offer("application/dicom", True, J2K, is_default_syntax=False)
DECODED = Offer("application/dicom", True, EXPLICIT, matches_any=False)
SINGLE = Offer("application/dicom", False, EXPLICIT)
FRAMES = [Offer("application/octet-stream", True, EXPLICIT), Offer("image/jp2", True, J2K)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image/png", [MediaRange("image/png")]),
        (" Image/PNG ;Q=0.5 , */*", [MediaRange("image/png", {}, 0.5), MediaRange("*/*")]),
        (
            'multipart/related; type="application/dicom"; transfer-syntax=*',
            [MediaRange("multipart/related", {"type": "application/dicom", "transfer-syntax": "*"})],
        ),
        (
            f'multipart/related;transfer-syntax="{EXPLICIT}";type=application/dicom;q=0.1,image/*',
            [
                MediaRange(
                    "multipart/related", {"transfer-syntax": EXPLICIT, "type": "application/dicom"}, 0.1
                ),
                MediaRange("image/*"),
            ],
        ),
        ('a/b; x="1,2;\\"3"; y=, c/d', [MediaRange("a/b", {"x": '1,2;"3', "y": ""}), MediaRange("c/d")]),
        ("no type, image/png; q=2, image/gif; q=x, image/jpeg", [MediaRange("image/jpeg")]),
        ('image/png; x="never ends, image/jpeg', [MediaRange("image/jpeg")]),
        ("", []),
        (",,;;,", []),
    ],
)
def test_a_list_is_read(text, expected):
    assert list(media_ranges(text)) == expected


@pytest.mark.parametrize(
    ("offers", "accept", "media_type"),
    [
        (QIDO, [], "application/dicom+json"),
        (QIDO, [""], "application/dicom+json"),
        (QIDO, ["*/*"], "application/dicom+json"),
        (QIDO, ["application/json"], "application/json"),
        (QIDO, ["APPLICATION/DICOM+JSON; charset=utf-8"], "application/dicom+json"),
        (QIDO, ["text/turtle, application/dicom+json;q=0.9"], "application/dicom+json"),
        (QIDO, ["text/html", "application/json;q=0.2"], "application/json"),
        (QIDO, ["application/json, text/plain, */*"], "application/json"),
        (RENDERED, ["image/*"], "image/jpeg"),
        (RENDERED, ["image/png, image/jpeg"], "image/png"),
        (RENDERED, ["image/png;q=0.5, image/gif"], "image/gif"),
        (RENDERED, ["image/*, image/jpeg;q=0"], "image/png"),
        (RENDERED, ["image/webp, */*;q=0.1"], "image/jpeg"),
    ],
)
def test_the_preferred_form_is_chosen(offers, accept, media_type):
    assert choose(offers, accept).media_type == media_type


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ('multipart/related; type="application/dicom"', DECODED),
        ("multipart/related; type=application/dicom", DECODED),
        ("multipart/related", DECODED),
        ("*/*", DECODED),
        ('multipart/related; type="application/dicom"; transfer-syntax=*', STORED),
        ('multipart/related; type="application/dicom"; transfer-syntax="*"', STORED),
        (f'multipart/related; transfer-syntax={J2K}; type="application/dicom"', STORED),
        (f"multipart/related; type=application/dicom; transfer-syntax={EXPLICIT}", DECODED),
        ("application/dicom", SINGLE),
        (f"application/dicom; transfer-syntax={JPEG}, application/dicom; q=0.1", SINGLE),
    ],
)
def test_a_transfer_syntax_is_chosen(accept, chosen):
    assert choose([DECODED, STORED, SINGLE], [accept]) == chosen


def test_parts_of_another_type_are_another_form():
    accept = f"multipart/related; type=image/jp2; transfer-syntax={J2K}"
    assert choose(FRAMES, [accept]).media_type == "image/jp2"
    assert (
        choose(FRAMES, ["multipart/related; type=application/octet-stream; transfer-syntax=*"]) == FRAMES[0]
    )


def test_the_query_wins_over_the_header():
    header = ['multipart/related; type="application/octet-stream"']
    assert choose(RENDERED, header, ["image/png"]).media_type == "image/png"
    assert choose(RENDERED, ["image/gif"], ["image/webp"]).media_type == "image/gif"


@pytest.mark.parametrize(
    ("offers", "accept"),
    [
        (QIDO, "image/png"),
        (QIDO, 'multipart/related; type="application/dicom+xml"'),
        (QIDO, "application/dicom+json;q=0, application/json;q=0.0"),
        (QIDO, "no type"),
        ([DECODED], f"multipart/related; type=application/dicom; transfer-syntax={JPEG}"),
        ([DECODED], "application/dicom"),
        ([SINGLE], 'multipart/related; type="application/dicom"'),
        (QIDO, ",".join(["a/b"] * 100_000)),
    ],
)
def test_what_is_not_offered_is_not_acceptable(offers, accept):
    with pytest.raises(NotAcceptable):
        choose(offers, [accept])


def test_the_refusal_names_what_is_available():
    with pytest.raises(NotAcceptable) as caught:
        choose([STORED, DECODED, SINGLE], ["image/png"])
    forms = 'multipart/related; type="application/dicom", application/dicom'
    assert caught.value.text == f"accept: this resource is available as {forms}"
