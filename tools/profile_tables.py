"""What the profiles do, as tables in Markdown: docs/deidentification*.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from app.dicom.deidentify.profile import BASIC, OPTIONS, PROFILES
from app.dicom.deidentify.table import BEYOND, EDITION, ROWS

EXAMPLES = 3
ATTRIBUTES = "docs/deidentification-attributes.md"


def actions() -> dict[str, Mapping[int, str]]:
    """Return profile -> tag -> action."""
    return {name: profile.actions() for name, profile in PROFILES.items()}


def summary_table() -> str:
    """Return how many attributes each combination of actions holds for, with some of their names."""
    of, groups = actions(), defaultdict(list)
    for tag, row in ROWS.items():
        groups[tuple(of[name][tag] for name in PROFILES)].append(row.name)
    lines = [f"| {' | '.join(PROFILES)} | attributes | such as |", f"|{'---|' * len(PROFILES)}---:|---|"]
    for combination, names in sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        shown = ", ".join(names[:: max(1, len(names) // EXAMPLES)][:EXAMPLES])
        lines.append(f"| {' | '.join(combination)} | {len(names)} | {shown} |")
    return "\n".join(lines) + "\n"


def option_table() -> str:
    """Return the options with their codes and the profiles in which they are on."""
    lines = ["| option | code | name in the standard | on in |", "|---|---|---|---|"]
    lines.append(f"|  | {BASIC[0]} | {BASIC[1]} | {', '.join(PROFILES)} |")
    for option, (code, name) in OPTIONS.items():
        on = ", ".join(profile.name for profile in PROFILES.values() if option in profile.options)
        lines.append(f"| `{option}` | {code} | {name} | {on or 'none'} |")
    return "\n".join(lines) + "\n"


def attributes_page() -> str:
    """Return the page with every attribute of the table."""
    of = actions()
    lines = [
        "# What each profile does to each attribute",
        "",
        f"From table E.1-1 of PS3.15 {EDITION}; [deidentification.md](deidentification.md) explains it.",
        "X remove, Z empty, D dummy, U new UID, K keep, C clean; of several, the type chooses.",
        "Private attributes, curves (50xx) and overlays (60xx) are removed in each profile.",
        "",
        f"| tag | attribute | {' | '.join(PROFILES)} |",
        f"|---|---|{'---|' * len(PROFILES)}",
    ]
    for tag, row in sorted(ROWS.items()):
        name = f"{row.name} (not in E.1-1)" if tag in BEYOND else row.name
        cells = " | ".join(of[profile][tag] for profile in PROFILES)
        lines.append(f"| ({tag >> 16:04X},{tag & 0xFFFF:04X}) | {name} | {cells} |")
    return "\n".join(lines) + "\n"
