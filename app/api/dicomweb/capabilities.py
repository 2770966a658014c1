"""The capabilities of this service (PS3.18 8.9): `OPTIONS /dicomweb/`, and GET for people."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import quoteattr

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from app.api.dicomweb.accept import Offer, choose
from app.api.dicomweb.answers import PREFIX, BrowseRoute, base_url
from app.api.router import Router

WADL = "application/vnd.sun.wadl+xml"
DICOM = ("multipart/related; type=application/dicom", "application/dicom")
JSON = ("application/dicom+json",)
IMAGES = ("image/jpeg", "image/png", "image/gif")
FRAMES = (
    *("multipart/related; type=application/octet-stream", "application/octet-stream"),
    *(
        f"multipart/related; type=image/{kind}"
        for kind in ("jpeg", "jls", "jp2", "jpx", "jphc", "jxl", "dicom-rle")
    ),
)
MEDIA_TYPES = {
    **dict.fromkeys(("{study}", "{series}", "{instance}"), DICOM),
    **dict.fromkeys(("studies", "series", "instances", "metadata"), JSON),
    "rendered": (*IMAGES, "application/pdf"),
    "thumbnail": IMAGES,
    **dict.fromkeys(("{numbers}", "pixeldata"), FRAMES),
    **dict.fromkeys(("{tag}", "{number}"), FRAMES[:2]),
}
"""Last segment of a path -> what the resource is answered with."""

router = Router(prefix=PREFIX, route_class=BrowseRoute)


@router.options("/", include_in_schema=False, response_class=Response)
@router.get("/", summary="What DICOMweb can do here", response_class=Response)
def capabilities(request: Request) -> Response:
    """Answer with resources, methods and media types, as WADL or as JSON."""
    chosen = choose((Offer(WADL), Offer("application/json")), request.headers.getlist("accept"))
    found = list(_resources(request))
    if chosen.media_type == "application/json":
        keys = ("path", "methods", "mediaTypes")
        return JSONResponse(
            {"base": base_url(request), "resources": [dict(zip(keys, one, strict=True)) for one in found]}
        )
    return Response("".join(_wadl(base_url(request), found)), media_type=WADL)


Resource = tuple[str, list[str], list[str]]


def _resources(request: Request) -> Iterator[Resource]:
    """Yield path, methods and media types of all resources of DICOMweb."""
    for path, operations in sorted(request.app.openapi()["paths"].items()):
        if path.startswith(f"{PREFIX}/"):
            media_types = MEDIA_TYPES.get(path.rpartition("/")[2], ())
            yield (
                path.removeprefix(f"{PREFIX}/"),
                [method.upper() for method in operations],
                list(media_types),
            )


def _wadl(base: str, resources: list[Resource]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<application xmlns="http://wadl.dev.java.net/2009/02">\n'
    yield f"<resources base={quoteattr(base)}>\n"
    for path, methods, media_types in resources:
        yield f"<resource path={quoteattr(path)}>"
        for method in methods:
            answered = JSON if method == "POST" else media_types  # a POST answers what it has stored
            told = "".join(f"<representation mediaType={quoteattr(one)}/>" for one in answered)
            yield f"<method name={quoteattr(method)}><response>{told}</response></method>"
        yield "</resource>\n"
    yield "</resources>\n</application>\n"
