"""Pages that are made from the routes and the commands themselves: docs/api.md and docs/commands.md."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import click

from app import config
from app.api import create_app
from app.cli.commands import cli
from app.services import open_services

API, COMMANDS = "docs/api.md", "docs/commands.md"
WIDTH = 100
OBVIOUS = {"Successful Response", "Validation Error"}
"""What FastAPI says of answers that we say nothing about."""

API_HEAD = """# Routes

Made from the OpenAPI document, which the service has at `/openapi.json` and, for people, at `/docs`.
Answers other than success are explained [below](#answers). What the routes are for: [events.md](events.md),
[browse.md](browse.md), [dicomweb.md](dicomweb.md), [orthanc.md](orthanc.md).

| route | does | query | other answers |
|---|---|---|---|
"""
COMMANDS_HEAD = """# Commands

What `--help` prints for each command. Examples are in [command-line.md](command-line.md).
"""


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the service with all its routes."""
    with tempfile.TemporaryDirectory() as folder:
        places = {
            "source.url": f"file:{folder}/landing",
            "artifacts.url": f"file:{folder}/output",
            "warehouse.url": f"sqlite:{folder}/lake.db",
            "bus.url": f"local:{folder}/queue.db",
        }
        services = open_services(config.load({}, places).settings)
        try:
            return create_app(services).openapi()
        finally:
            services.close()


def api_page() -> str:
    """Return docs/api.md."""
    rows, meanings = [], set()
    for path, methods in openapi()["paths"].items():
        for method, operation in methods.items():
            described = {code: answer["description"] for code, answer in operation["responses"].items()}
            answers = {(code, text) for code, text in described.items() if text not in OBVIOUS}
            meanings |= answers
            query = [f"`{one['name']}`" for one in operation.get("parameters", ()) if one["in"] == "query"]
            codes = sorted(code for code, _ in answers)
            rows.append(
                (f"`{method.upper()} {path}`", operation["summary"], ", ".join(query), " ".join(codes))
            )
    lines = [f"| {' | '.join(row)} |".replace("  ", " ") for row in rows]
    below = [f"| {code} | {meaning} |" for code, meaning in sorted(meanings)]
    return API_HEAD + "\n".join([*lines, "", "## Answers", "", "| status | means |", "|---|---|", *below, ""])


def commands_page() -> str:
    """Return docs/commands.md."""
    blocks = [f"\n## {name}\n\n```text\n{text}\n```\n" for name, text in _helps(cli, "dicomlake", None)]
    return COMMANDS_HEAD + "".join(blocks)


def _helps(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    own = {"info_name": name.split()[-1], "terminal_width": WIDTH, **command.context_settings}
    context = click.Context(command, parent, **own)
    yield name, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from _helps(below, f"{name} {word}", context)
