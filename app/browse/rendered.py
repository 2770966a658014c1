"""Pictures of a stored instance: any frame, drawn to order, or a thumbnail of its stored preview."""

from __future__ import annotations

from dataclasses import replace

from app.browse import tasks
from app.browse.cache import key_of
from app.browse.frames import kept_layout
from app.browse.instances import Stored
from app.browse.objects import WAIT_S, Originals
from app.model.errors import LimitExceeded, ObjectGone, Unrenderable, WorkerCrashed
from app.model.options import PreviewOptions, RenderOptions
from app.model.values import Content
from app.pipeline.pdf_pages import PAGE_LIMITS

THUMBNAIL_SIDE = 128
KEPT_SIDES = (64, 128, 256, 512)
"""Thumbnails of these square viewports are cached; if all were, a client could fill the storage."""
MAX_SIDE = 4096
"""Largest side of a viewport."""


def render_picture(stored: Stored, how: RenderOptions, window: str | None, originals: Originals) -> bytes:
    """Draw a frame of an instance, all frames, or its page, in a worker; or return the PDF that it holds.

    Parameters
    ----------
    window : `centre,width[,function]` in modality units; None as in the preview

    Raises
    ------
    ObjectGone : the object is no more
    Unrenderable : with a code of PreviewError
    """
    options = originals.options.preview
    if window is not None:
        options = replace(options, window=window)
    content = originals.content(stored)
    kept = kept_layout(stored, originals) if content.data is None else b""
    return draw(content, how, options, originals, kept)


def draw(
    content: Content, how: RenderOptions, options: PreviewOptions, originals: Originals, kept: bytes = b""
) -> bytes:
    """Draw an object in a worker, a PDF in one with tighter limits; raises as `render_picture`.

    kept: as for `tasks.render`.
    """
    data, is_pdf = originals.run_on(content, tasks.render, how, options, kept)
    if not is_pdf or how.media_type == tasks.PDF:
        return data
    page = tasks.render_page, data, how, options
    try:
        return originals.services.workers.run_confined(PAGE_LIMITS, *page, wait_s=WAIT_S)
    except (LimitExceeded, WorkerCrashed) as error:
        raise Unrenderable("the page of the PDF takes too much to be drawn") from error


def thumbnail(stored: Stored, how: RenderOptions, originals: Originals) -> bytes:
    """Return a small picture of an instance, made from its preview if that shows the requested frame.

    Raises
    ------
    Unrenderable : nothing of the instance can be drawn
    ObjectGone : the object no longer exists
    """
    viewport = how.viewport or (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    how = replace(how, viewport=viewport)
    name = f"{key_of([stored.row_id, how, originals.options.preview])}.thumbnail"
    kept = viewport[0] == viewport[1] and viewport[0] in KEPT_SIDES and how.frame is None
    found = originals.cache.get(stored.series_instance_uid, name, stored=kept)
    if found is None:
        found = _drawn(stored, how, originals)
        originals.cache.put(stored.series_instance_uid, name, found, how.media_type, stored=kept)
    return found


def _drawn(stored: Stored, how: RenderOptions, originals: Originals) -> bytes:
    viewport = how.viewport or (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    most = originals.options.preview.max_side
    from_preview = how.frame is None or stored.frames == 1
    if from_preview and stored.preview_uri and (not most or max(viewport) <= most):
        try:
            png = originals.services.artifacts.read(stored.preview_uri)
            return originals.services.workers.run(tasks.shrink, png, how, wait_s=WAIT_S)
        except (ObjectGone, Unrenderable):  # it may have gone with an earlier revision: the object decides
            pass
    return render_picture(stored, how, None, originals)
