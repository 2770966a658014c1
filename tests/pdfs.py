"""PDFs that ask for more than any page needs, each of a kind of its own; most are a few kilobytes."""

import zlib

from tests.data import identity, part10

ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
PAINT = b"0 0 600 800 re f "
"""Paint all of the page."""


def pdf_object(pdf: bytes, uid: str = "1.2.3") -> bytes:
    """Return a DICOM file that holds a PDF."""
    dataset = identity(ENCAPSULATED_PDF, Modality="DOC", SOPInstanceUID=uid)
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return part10(dataset)


def stream(data: bytes, entries: bytes = b"", packed: int = 0) -> bytes:
    """Return a stream, deflated so many times."""
    for _ in range(packed):
        data = zlib.compress(data, 9)
    filters = b"/Filter[%b]" % (b"/FlateDecode " * packed) if packed else b""
    return b"<<%b%b/Length %d>>stream\n%b\nendstream" % (entries, filters, len(data), data)


def page(content: bytes, resources: bytes, *objects: bytes, box: bytes = b"0 0 600 800") -> bytes:
    """Return a PDF of one page; `objects` have the numbers from 5 on."""
    head = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[%b]/Resources<<%b>>/Contents 4 0 R>>" % (box, resources),
    )
    numbered = enumerate((*head, content, *objects), 1)
    body = b"".join(b"%d 0 obj%b endobj\n" % (number, text) for number, text in numbered)
    return b"%PDF-1.7\n" + body + b"trailer<</Root 1 0 R/Size 99>>\n%%EOF"


def tiling() -> bytes:
    """Tiles of 1/2000 point."""
    entries = b"/PatternType 1/PaintType 1/TilingType 1/BBox[0 0 1 1]/XStep .0005/YStep .0005/Resources<<>>"
    return page(
        stream(b"/Pattern cs /P scn " + PAINT), b"/Pattern<</P 5 0 R>>", stream(b"0 0 1 1 re f", entries)
    )


def shading() -> bytes:
    """A shading whose function takes 9,000 operations a pixel."""
    function = stream(
        b"{" + b" 2 copy mul sin exch " * 3000 + b" pop dup dup }",
        b"/FunctionType 4/Domain[0 1 0 1]/Range[0 1 0 1 0 1]",
    )
    kind = b"/ShadingType 1/ColorSpace/DeviceRGB/Matrix[600 0 0 800 0 0]/Function 5 0 R"
    return page(stream(b"/S sh"), b"/Shading<</S<<%b>>>>" % kind, function)


def mesh() -> bytes:
    """A mesh of 200,000 triangles of the size of the page."""
    corners = bytes.fromhex("0000000000ff0000 00ffffffff00ff00 000000ffff0000ff")
    kind = b"/ShadingType 4/ColorSpace/DeviceRGB/BitsPerCoordinate 16/BitsPerComponent 8/BitsPerFlag 8"
    decode = b"/Decode[0 600 0 800 0 1 0 1 0 1]"
    return page(stream(b"/S sh"), b"/Shading<</S 5 0 R>>", stream(corners * 200_000, kind + decode, packed=1))


def forms() -> bytes:
    """Forms that draw one another twice, 25 deep."""
    entries = b"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<</XObject<</F %d 0 R>>>>"
    inner = [stream(b"/F Do /F Do", entries % (6 + depth)) for depth in range(24)]
    return page(stream(b"/F Do"), b"/XObject<</F 5 0 R>>", *inner, stream(PAINT, entries % 99))


def operators() -> bytes:
    """Page content of 450 MB, deflated twice."""
    return page(stream(PAINT * (450_000_000 // len(PAINT)), packed=2), b"")


def image(side: int, more: bytes = b"") -> bytes:
    """An image that says that it has so many rows and columns, over its first few."""
    entries = b"/Subtype/Image/Width %d/Height %d/BitsPerComponent 8/ColorSpace/DeviceRGB" % (side, side)
    return stream(bytes(1 << 20), entries + more, packed=1)


def claimed_image() -> bytes:
    """An image of 2.7 GB, of which the data are 1 MB."""
    return page(stream(b"600 0 0 800 0 0 cm /I Do"), b"/XObject<</I 5 0 R>>", image(30_000))


def masked_image() -> bytes:
    """An image whose mask is of 400 MB, which PDFium leaves out where it gets no memory."""
    entries = b"/Subtype/Image/Width 20000/Height 20000/BitsPerComponent 8/ColorSpace/DeviceGray"
    mask = stream(bytes(20_000 * 20_000), entries, packed=1)
    return page(
        stream(b"600 0 0 800 0 0 cm /I Do"), b"/XObject<</I 5 0 R>>", image(100, b"/SMask 6 0 R"), mask
    )


def letters() -> bytes:
    """Three million letters of a font whose glyph is a thousand rectangles."""
    font = (
        b"<</Type/Font/Subtype/Type3/FontBBox[0 0 1000 1000]/FontMatrix[.001 0 0 .001 0 0]/FirstChar 97"
        b"/LastChar 97/Widths[0]/CharProcs<</a 6 0 R>>/Encoding<</Differences[97/a]>>/Resources<<>>>>"
    )
    glyph = stream(b"1000 0 d0 " + b"0 0 1000 1000 re f " * 1000, packed=1)
    text = b"BT /T 600 Tf 0 0 Td (%b) Tj ET" % (b"a" * 3_000_000)
    return page(stream(text, packed=1), b"/Font<</T 5 0 R>>", font, glyph)


def many_pages() -> bytes:
    """A document of 200,000 pages."""
    return page(stream(PAINT), b"").replace(b"[3 0 R]/Count 1", b"[%b]/Count 200000" % (b"3 0 R " * 200_000))


def huge_page() -> bytes:
    """A page of 10^30 points a side."""
    return page(stream(PAINT), b"", box=b"0 0 1e30 1e30")
