"""The first page of an encapsulated PDF."""

import pytest
from pydicom.dataset import Dataset

from app.dicom.render.preview import picture as draw_picture
from app.model.errors import Unrenderable
from app.model.options import PreviewOptions


def pdf(*contents: bytes, box: str = "0 0 100 200") -> bytes:
    """Return a PDF of pages with these drawing operators; readers find its objects without a table."""
    kids = " ".join(f"{3 + 2 * n} 0 R" for n in range(len(contents)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(contents)}>>".encode(),
    ]
    for n, content in enumerate(contents):
        objects.append(f"<</Type/Page/Parent 2 0 R/MediaBox[{box}]/Contents {4 + 2 * n} 0 R>>".encode())
        objects.append(b"<</Length %d>>stream\n%b\nendstream" % (len(content), content))
    body = b"".join(b"%d 0 obj%b endobj\n" % (n, text) for n, text in enumerate(objects, 1))
    return b"%PDF-1.4\n" + body + b"trailer<</Root 1 0 R/Size 20>>\n%%EOF"


RED_BELOW = b"1 0 0 rg 0 0 100 100 re f"
"""The lower half of the page in red: PDF counts from the bottom."""


def document(data: bytes, kind: str = "application/pdf") -> Dataset:
    dataset = Dataset()
    dataset.MIMETypeOfEncapsulatedDocument = kind
    dataset.EncapsulatedDocument = data + b"\0" * (len(data) % 2)
    return dataset


def code(dataset: Dataset) -> str:
    with pytest.raises(Unrenderable) as caught:
        draw_picture(dataset, PreviewOptions())
    return caught.value.code


def test_first_page_is_drawn():
    image = draw_picture(document(pdf(RED_BELOW, b"")), PreviewOptions(max_side=400))
    assert image.shape == (400, 200, 3)
    assert (image[100, 100].tolist(), image[300, 100].tolist()) == ([255, 255, 255], [255, 0, 0])


@pytest.mark.parametrize(("max_side", "shape"), [(0, (2048, 1024, 3)), (77, (77, 39, 3))])
def test_page_has_the_size_asked_for(max_side, shape):
    assert draw_picture(document(pdf(b"")), PreviewOptions(max_side=max_side)).shape == shape


@pytest.mark.parametrize("data", [b"no document", b"%PDF-1.4", pdf(), pdf(b"", box="0 0 0 0")[:60]])
def test_broken_document_has_its_code(data):
    assert code(document(data)) == "bad_document"


def test_page_of_an_absurd_shape_is_drawn_within_the_limit():
    image = draw_picture(document(pdf(b"", box="0 0 14400 1")), PreviewOptions(max_side=1000))
    assert image.shape == (1, 1000, 3)


def test_only_pdf_is_drawn():
    assert code(document(b"<xml/>", "text/XML")) == "no_pixel_data"


def test_large_document_is_not_even_read():
    dataset = document(bytes((64 << 20) + 2))
    assert code(dataset) == "document_too_large"
