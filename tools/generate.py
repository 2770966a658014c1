"""Write what is generated from the code (`make schemas`); a test compares it with what is committed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app import config
from app.config.sources import defaults
from app.jobs import advice
from tools import profile_tables, reference
from tools.table_files import files as tables

ROOT = Path(__file__).parents[1]


def schema_text() -> str:
    """Return the JSON Schema of a configuration file; every key is optional there, defaults fill the rest."""
    schema = config.Settings.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "dicomlake settings"
    for model in [schema, *schema["$defs"].values()]:
        model.pop("required", None)
    for section, values in defaults().items():
        name = schema["properties"][section]["$ref"].rpartition("/")[2]
        for key, value in values.items():
            schema["$defs"][name]["properties"][key]["default"] = value
    return json.dumps(schema, indent=2) + "\n"


def defaults_text() -> str:
    """Return the settings that ship, with the defaults of options that app/model/options.py declares."""
    values = defaults()
    for section, keys in config.SECTIONS.items():
        values[section] |= {key: leaf.default for key, leaf in keys.items() if not leaf.is_required()}
    text = json.dumps(values, indent=2)
    return re.sub(r"\[\n[^\]]*\]", lambda array: json.dumps(json.loads(array[0])), text) + "\n"


def markdown_table() -> str:
    """Return the table of settings: every key with its default and what it is for."""
    lines = ["| setting | default | |", "|---|---|---|"]
    for section, values in defaults().items():
        fields = config.SECTIONS[section]
        for key, value in values.items():
            shown = json.dumps(value).replace("|", "\\|")
            about = f"{fields[key].description}{_bounds(fields[key].metadata)}"
            lines.append(f"| `{section}.{key}` | `{shown}` | {about} |")
    return "\n".join(lines) + "\n"


def _bounds(metadata: Sequence[Any]) -> str:
    """Return the least and the most that a setting may be, where more than its sign is asked for."""
    least = next((one.ge for one in metadata if hasattr(one, "ge")), 0)
    most = next((one.le for one in metadata if hasattr(one, "le")), None)
    if least in (0, 1):
        return ""
    return f"; at least {least}" if most is None else f"; {least} to {most}"


def settings_page(text: str) -> str:
    """Return docs/settings.md with its table of settings as the code has it."""
    return _between("settings", markdown_table(), text)


def runbook(text: str) -> str:
    """Return the runbook with its table of codes as the code has it."""
    return _between("codes", advice.markdown_table(), text)


def deidentification_page(text: str) -> str:
    """Return docs/deidentification.md with its tables of options and actions as the code has them."""
    text = _between("options", profile_tables.option_table(), text)
    return _between("actions", profile_tables.summary_table(), text)


def _between(name: str, table: str, text: str) -> str:
    marks = rf"(<!-- {name} -->\n).*(<!-- /{name} -->)"
    return re.sub(marks, lambda found: found[1] + table + found[2], text, flags=re.S)


def main() -> None:
    """Write every generated file."""
    pages = {
        "docs/settings.md": settings_page((ROOT / "docs/settings.md").read_text()),
        "docs/runbook.md": runbook((ROOT / "docs/runbook.md").read_text()),
        "docs/deidentification.md": deidentification_page((ROOT / "docs/deidentification.md").read_text()),
        profile_tables.ATTRIBUTES: profile_tables.attributes_page(),
        reference.API: reference.api_page(),
        reference.COMMANDS: reference.commands_page(),
    }
    settings = {"app/config/defaults.json": defaults_text(), "app/config/schema.json": schema_text()}
    for name, text in {**settings, **pages, **tables()}.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text)


if __name__ == "__main__":
    main()
