"""The page: what the lake holds, for a person in a browser.

Plain HTML from templates and GET forms; all but window, frames and upload progress works without JavaScript.
Nothing is inline and nothing is loaded from other hosts, so the policy of `CONTENT` can forbid both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import jinja2
from fastapi import Form, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from markupsafe import Markup
from starlette.staticfiles import StaticFiles

from app.api.health import VERSION
from app.api.pages import plots
from app.api.public_url import root_path
from app.api.router import Router
from app.browse import catalog, sheet
from app.browse.uploads import WORDS, Fate
from app.jobs import dead_letters as dlq
from app.jobs.advice import what_to_do
from app.model.errors import BadSearch
from app.services import Services

CONTENT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
DIRECT = 30_000_000
"""Size in bytes above which uploads bypass the service if they can: Cloud Run limits requests to 32 MiB."""
PAGE = 50
STRIP = 120
"""Instances of a series on one page."""
MENU = (
    ("/studies", "Studies"),
    ("/upload", "Upload"),
    ("/dead-letters", "Dead letters"),
    ("/overview", "Overview"),
)

router = Router(include_in_schema=False)


def static_files() -> StaticFiles:
    """Return the app that serves style and scripts, which are the same for everyone."""
    return StaticFiles(directory=Path(str(resources.files("app.api.pages") / "static")))


class Pages:
    """Renders pages from templates."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("app.api.pages"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.filters |= FILTERS

    def page(
        self, request: Request, template: str, status: int = 200, connects: str = "", **values: Any
    ) -> HTMLResponse:
        """Return a page; `values` are its template's, `connects` is an origin that its script may request."""
        uploads = self._services.settings.browse.uploads
        menu = [entry for entry in MENU if uploads or entry[0] != "/upload"]
        text = self._templates.get_template(template).render(
            base=root_path(request),
            here=request.url.path.removeprefix(request.scope.get("root_path", "")),
            menu=menu,
            user=getattr(request.state, "user", None),
            **values,
        )
        own = "connect-src 'self'"
        headers = {
            "Content-Security-Policy": CONTENT.replace(own, f"{own} {connects}".strip()),
            "Cache-Control": "no-store",
            "Referrer-Policy": "same-origin",  # with none, a browser sends forms with `Origin: null`
        }
        return HTMLResponse(text, status, headers)

    def problem(
        self, request: Request, status: int, title: str, words: str, headers: Mapping[str, str] | None = None
    ) -> HTMLResponse:
        """Return a page that says in one sentence what is wrong."""
        page = self.page(request, "error.html", status, title=title, words=words)
        page.headers.update(headers or {})
        return page

    def uploaded(self, request: Request, fates: Sequence[Fate]) -> HTMLResponse:
        """Return the page that reports what became of the uploaded files."""
        results = [{"name": fate.name, "reason": fate.reason, "words": _fate(fate)} for fate in fates]
        return self.upload(request, results, 400 if any(fate.reason for fate in fates) else 200)

    def upload(
        self, request: Request, results: list[dict[str, Any]] | None, status: int = 200
    ) -> HTMLResponse:
        """Return the upload form; large files go straight to the store if it supports that."""
        store = self._services.source.session_origin
        return self.page(
            request, "upload.html", status, connects=store, results=results, direct=DIRECT if store else 0
        )


def _fate(fate: Fate) -> str:
    if fate.reason:
        return WORDS[fate.reason]
    return "landed; it appears among the studies within seconds" if fate.written else "is there already"


@dataclass(frozen=True, slots=True)
class Turn:
    """One page of a list: its rows, and whether more follow."""

    rows: list[dict[str, Any]]
    offset: int
    size: int

    def values(self, request: Request) -> dict[str, Any]:
        """Return the arguments of the pager's macro."""
        asked = dict(request.query_params)

        def at(offset: int) -> str:
            return f"?{urlencode({**asked, 'offset': offset})}"

        return {
            "offset": self.offset,
            "more": len(self.rows) > self.size,
            "previous": at(max(self.offset - self.size, 0)) if self.offset else "",
            "next": at(self.offset + self.size),
        }


def _pages(request: Request) -> Pages:
    pages: Pages = request.app.state.pages
    return pages


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _offset(request: Request) -> int:
    given = request.query_params.get("offset", "0")
    return min(int(given), 10_000_000) if given.isdecimal() and given.isascii() else 0


root = Router(include_in_schema=False)


@root.get("/")
async def home(request: Request) -> Response:
    """Show the studies to a browser; a program is told name and version, however many pushes wait."""
    return await run_in_threadpool(studies, request) if wants_page(request) else JSONResponse(VERSION)


@router.get("/studies")
def studies(request: Request) -> Response:
    """Show the studies that match the form, the newest first."""
    services, offset = _services(request), _offset(request)
    asked = catalog.Asked.of(request.query_params)
    problem, rows = "", list[dict[str, Any]]()
    try:
        rows = catalog.studies(services, asked, PAGE + 1, offset)
    except BadSearch as error:
        problem = error.text
    turn = Turn(rows, offset, PAGE)
    known = catalog.choices(services)
    landing = services.source.uri("").removeprefix("file://")
    return _pages(request).page(
        request,
        "studies.html",
        400 if problem else 200,
        asked=asked.fields,
        searching=asked.given or bool(offset),
        problem=problem,
        studies=rows[:PAGE],
        modalities=known["modalities"],
        collections=known["collections"],
        landing=landing,
        may_upload=services.settings.browse.uploads,
        **turn.values(request),
    )


@router.get("/studies/{study}")
def study_page(request: Request, study: str) -> Response:
    """Show a study and its series."""
    services = _services(request)
    found = catalog.study(services, study)
    if found is None:
        return _missing(request, "study")
    ohif = services.settings.browse.ohif_url
    return _pages(request).page(
        request,
        "study.html",
        study=found,
        series=catalog.series_of(services, study),
        ohif=f"{ohif.rstrip('/')}/viewer?StudyInstanceUIDs={study}" if ohif else "",
    )


@router.get("/studies/{study}/series/{series}")
def series_page(request: Request, study: str, series: str) -> Response:
    """Show a series and its instances."""
    services, offset = _services(request), _offset(request)
    found = next(
        (one for one in catalog.series_of(services, study) if one["series_instance_uid"] == series), None
    )
    if found is None:
        return _missing(request, "series")
    rows = catalog.instances_of(services, study, series, STRIP + 1, offset)
    turn = Turn(rows, offset, STRIP)
    return _pages(request).page(
        request, "series.html", series=found, instances=rows[:STRIP], **turn.values(request)
    )


@router.get("/studies/{study}/series/{series}/instances/{instance}")
def instance_page(request: Request, study: str, series: str, instance: str) -> Response:
    """Show an instance: its picture, its tags, and where to get it."""
    services = _services(request)
    row = catalog.instance(services, study, series, instance)
    if row is None:
        return _missing(request, "instance")
    document = catalog.document(services, row)
    before, after = catalog.neighbours(request.app.state.browser.instances, study, series, instance)
    frame = request.query_params.get("frame", "1")
    view = sheet.viewer(row, document)
    frames = view.frames if view else 1
    return _pages(request).page(
        request,
        "instance.html",
        one=row,
        viewer=view,
        tags=sheet.lines(document, row["warnings"]),
        warnings=row["warnings"],
        before=before,
        after=after,
        frame=min(max(int(frame), 1), frames) if frame.isdecimal() and frame.isascii() else 1,
    )


@router.get("/upload")
def upload_page(request: Request) -> Response:
    """Show the upload form."""
    if not _services(request).settings.browse.uploads:
        return _pages(request).problem(request, 404, "No uploads", "They are switched off here.")
    return _pages(request).upload(request, None)


@router.get("/upload/outcome")
def outcome(request: Request, object: str, generation: int) -> dict[str, object]:
    """Answer what the pipeline has made of an uploaded object."""
    services = _services(request)
    row, letter = catalog.outcome(services, object, generation)
    if letter is not None:
        return {"outcome": "dead-lettered", "reason": letter["reason"] or letter["code"]}
    if row is None:
        return {"outcome": "pending"}
    uids = [row[f"{level}_instance_uid"] for level in ("study", "series", "sop")]
    base = root_path(request)
    link = f"{base}/studies/{uids[0]}/series/{uids[1]}/instances/{uids[2]}" if all(uids) else None
    return {"outcome": "stored", "link": link}


@router.get("/dead-letters")
def dead_letters(request: Request) -> Response:
    """Show what could not be processed, the newest first."""
    services, offset = _services(request), _offset(request)
    rows = catalog.letters(services, PAGE + 1, offset)
    turn = Turn(rows, offset, PAGE)
    return _pages(request).page(
        request,
        "dead_letters.html",
        letters=rows[:PAGE],
        may_change=_may_change(request),
        said=_done(request),
        **turn.values(request),
    )


@router.post("/dead-letters/chosen")
def change_letters(
    request: Request, do: Annotated[str, Form()], id: Annotated[list[str] | None, Form()] = None
) -> Response:
    """Send chosen letters again, or drop them."""
    services, ids = _services(request), id or []
    if not _may_change(request):
        return _pages(request).problem(request, 403, "Not allowed", "Only an admin may change dead letters.")
    if not ids:
        return _pages(request).problem(request, 400, "None chosen", "Choose at least one dead letter.")
    try:
        if do == "requeue":
            done = {"sent": sum(1 for _ in dlq.requeue(services, ids))}
        elif do == "purge":
            done = {"dropped": dlq.purge(services.warehouse, ids)}
        else:
            return _pages(request).problem(request, 400, "Unknown", "Choose to send again or to drop.")
    except dlq.NoSuchLetter:
        return _pages(request).problem(request, 404, "Gone", "One of them is no dead letter any more.")
    base = root_path(request)
    return RedirectResponse(f"{base}/dead-letters?{urlencode(done)}", 303)


def _done(request: Request) -> str:
    """Return what the form has just done. Only a number is taken from the URL: anyone can make a link."""
    for name, words in (("sent", "sent {} again"), ("dropped", "dropped {} for good")):
        number = request.query_params.get(name, "")
        if number.isdecimal() and number.isascii() and len(number) < 10:
            return words.format(number)
    return ""


@router.get("/overview")
def overview_page(request: Request) -> Response:
    """Show what the lake holds as a whole."""
    services = _services(request)
    found = catalog.overview(services)
    totals = found["totals"][0]
    letters = dlq.count(services.warehouse, None)
    numbers = [
        ("Studies", totals["studies"] or 0, "/studies"),
        ("Series", totals["series"] or 0, ""),
        ("Instances", totals["instances"] or 0, ""),
        ("Objects", totals["objects"] or 0, ""),
        ("Size", size(totals["size_bytes"] or 0), ""),
        ("Dead letters", letters, "/dead-letters"),
        ("Waiting in the queue", services.bus.depth() or 0, ""),
    ]

    def counted(name: str) -> list[tuple[str, int]]:
        return [(str(row["name"]), int(str(row["number"]))) for row in found[name]]

    return _pages(request).page(
        request,
        "overview.html",
        numbers=numbers,
        by_modality=plots.bars(counted("modalities"), "Instances by modality"),
        arrivals=plots.columns(counted("days")[::-1], "Arrivals by day"),
        failures=plots.bars(counted("failures"), "Failed attempts by reason"),
        unassigned=found["loose"],
    )


def _may_change(request: Request) -> bool:
    user = getattr(request.state, "user", None)
    return user is None or user.role == "admin"


def _missing(request: Request, what: str) -> Response:
    words = f"This lake holds no such {what} now; it may have been removed."
    return _pages(request).problem(request, 404, f"No such {what}", words)


def wants_page(request: Request) -> bool:
    """Return whether the request comes from a browser rather than a program."""
    return "text/html" in request.headers.get("accept", "")


def size(number: object) -> str:
    """Return a number of bytes as people read it."""
    value = float(str(number or 0))
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def person(name: object) -> str:
    """Return a person's name as people write it: `Doe, John A.` of `Doe^John^A.`; PS3.5 6.2.1."""
    groups = [group for group in str(name or "").split("=") if group.strip("^ ")]
    if not groups:
        return ""
    family, *rest = groups[0].split("^")
    given = " ".join(part for part in rest[:2] if part.strip())
    whole = ", ".join(part for part in (family.strip(), given.strip()) if part)
    return f"{whole} ({groups[1].replace('^', ' ').strip()})" if len(groups) > 1 else whole


def clock(value: object) -> str:
    """Return a time of day without fractions of a second."""
    return str(value or "")[:8]


def moment(value: object) -> str:
    """Return a point in time to the second."""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return str(value or "").replace("T", " ")[:19]


def modality_list(value: object) -> str:
    """Return modalities that are joined by commas, for people."""
    return ", ".join(str(value or "").split(","))


def advice(code: object) -> Markup:
    """Return what to do about a failure, its names of settings and commands as code."""
    parts = what_to_do(str(code or "")).split("`")
    marked = [
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    ]
    return Markup("").join(marked)


FILTERS: dict[str, Callable[[object], str]] = {
    "advice": advice,
    "uid": sheet.uid_text,
    "tag": sheet.tag_text,
    "size": size,
    "person": person,
    "clock": clock,
    "moment": moment,
    "modalities": modality_list,
}
