"""Bars as SVG, drawn on the server: no script and no library."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

ROW, LEFT, WIDTH = 24, 130, 420
HEIGHT, MOST_BARS = 150, 30


def bars(counts: Sequence[tuple[str, int]], words: str) -> Markup:
    """Return a bar a line, the longest first as given; `words` say what is counted."""
    if not counts:
        return Markup("<p>none yet</p>")
    most = max(count for _, count in counts) or 1
    room = WIDTH - LEFT - 60
    lines = [
        Markup(
            '<text x="{x}" y="{y}" text-anchor="end">{label}</text>'
            '<rect x="{left}" y="{top}" width="{width}" height="16" rx="2"></rect>'
            '<text class="soft" x="{end}" y="{y}">{count}</text>'
        ).format(
            x=LEFT - 8,
            y=number * ROW + 17,
            label=label,
            left=LEFT,
            top=number * ROW + 4,
            width=round(max(count / most * room, 1), 1),
            end=round(LEFT + max(count / most * room, 1) + 6, 1),
            count=count,
        )
        for number, (label, count) in enumerate(counts)
    ]
    return _svg(WIDTH, len(counts) * ROW + 6, words, lines)


def columns(counts: Sequence[tuple[str, int]], words: str) -> Markup:
    """Return an upright bar for each of the last MOST_BARS, with the first and the last label below."""
    if not counts:
        return Markup("<p>none yet</p>")
    shown = list(counts)[-MOST_BARS:]
    most, step = max(count for _, count in shown) or 1, WIDTH / max(len(shown), 7)
    parts = [
        Markup(
            '<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="2"><title>{label}: {count}</title></rect>'
        ).format(
            x=round(number * step + 2, 1),
            y=round(20 + (1 - count / most) * (HEIGHT - 45), 1),
            w=round(step - 4, 1),
            h=round(max(count / most * (HEIGHT - 45), 1), 1),
            label=label,
            count=count,
        )
        for number, (label, count) in enumerate(shown)
    ]
    parts.append(Markup('<text class="soft" x="2" y="{}">{}</text>').format(HEIGHT - 6, shown[0][0]))
    if len(shown) > 1:
        end = round((len(shown)) * step - 2, 1)
        last = Markup('<text class="soft" x="{}" y="{}" text-anchor="end">{}</text>')
        parts.append(last.format(max(end, 190), HEIGHT - 6, shown[-1][0]))
    parts.append(Markup('<text class="soft" x="2" y="13">most: {}</text>').format(most))
    return _svg(WIDTH, HEIGHT, words, parts)


def _svg(width: int, height: int, words: str, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        width, height, escape(words)
    )
    return head + Markup("").join(parts) + Markup("</svg>")
