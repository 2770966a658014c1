"""The command line: parse, call one function, print; JSON lines on stdout, words on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import orjson

from app import __version__, bulk, config, dlq, log
from app.errors import ConfigError, DicomlakeError
from app.services import Services, open_services
from app.table import table
from app.types import Content, ObjectRef
from app.warehouse import open_warehouse


class Failure(click.ClickException):
    """One sentence on stderr and an exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]  # a class variable only by its annotation


class Commands(click.Group):
    """Turns our errors into exit codes: 2 wrong use or configuration, 1 something failed."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise Failure(error.text, 2) from None
        except DicomlakeError as error:
            raise Failure(f"{error.code}: {error.text}", 1) from None


def emit(value: object) -> None:
    """Print one JSON line."""
    click.echo(orjson.dumps(value, default=str).decode())


def _assignments(_: click.Context, __: click.Parameter, values: Iterable[str]) -> dict[str, object]:
    pairs = [value.partition("=") for value in values]
    if wrong := next((key for key, sign, _value in pairs if not sign or "." not in key), None):
        raise click.BadParameter(f"{wrong}: write it as section.key=value")
    return {key: value for key, _sign, value in pairs}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dicomlake")
@click.option("--set", "arguments", multiple=True, metavar="SECTION.KEY=VALUE", callback=_assignments,
              help="Set one setting; may be given several times.")  # fmt: skip
@click.pass_context
def cli(ctx: click.Context, arguments: dict[str, object]) -> None:
    """DICOM objects in a bucket become JSON documents, PNG previews and rows to query."""
    ctx.obj = arguments


def settings_of(ctx: click.Context, **arguments: object) -> config.Settings:
    """Return the effective settings and set up logging; only `serve` logs without being told to."""
    given = {path.replace("__", "."): value for path, value in arguments.items() if value is not None}
    loaded = config.load(arguments={**ctx.obj, **given})
    quiet = ctx.info_name != "serve" and loaded.origins["log.level"] == "defaults"
    log.configure("critical" if quiet else loaded.settings.log.level, loaded.settings.log.format)
    return loaded.settings


@contextmanager
def opened(ctx: click.Context) -> Iterator[Services]:
    """Open services for one command."""
    services = open_services(settings_of(ctx))
    try:
        yield services
    finally:
        services.close()


@cli.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.pass_context
def serve(ctx: click.Context, host: str | None, port: int | None) -> None:
    """Run the HTTP service; with a folder as source also the watcher and the queue."""
    from app import server

    settings = settings_of(ctx, api__host=host, api__port=port)
    sock = server.listen(settings.api.host, settings.api.port)
    with sock:
        server.serve(open_services(settings), sock)


@cli.command()
@click.option("--once", is_flag=True, help="Exit when every sample has ended: 0 if each ended as it should.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the demo's lake, kept afterwards.")
@click.pass_context
def demo(ctx: click.Context, once: bool, keep: Path | None) -> None:
    """Start the service and drop pydicom's sample files into the landing folder."""
    from app import demo as room

    with room.lake(once, keep) as places:
        ctx.obj = {**places, **ctx.obj}
        if not room.run(settings_of(ctx), once, emit):
            ctx.exit(1)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.pass_context
def ingest(ctx: click.Context, paths: tuple[Path, ...]) -> None:
    """Put files and folders through the pipeline now, read where they lie."""
    with opened(ctx) as services:
        summary = bulk.ingest(paths, services, emit)
    emit({"summary": summary})
    if set(summary) & {"dead_lettered", "failed"}:
        ctx.exit(1)


def _content(path: Path) -> Content:
    """Read a file as the pipeline would, without storage."""
    data = path.read_bytes()
    ref = ObjectRef("", path.name, path.stat().st_mtime_ns)
    return Content(ref, f"file://{path.resolve()}", len(data), data=data)


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--flat", is_flag=True, help="The row's columns instead.")
@click.pass_context
def dump(ctx: click.Context, file: Path, flat: bool) -> None:
    """Print the DICOM JSON of a file."""
    from app.dicom import describe

    options = settings_of(ctx).describe_options()
    plain = replace(options, preview=replace(options.preview, enabled=False))
    instance = describe(_content(file), plain)
    if flat:
        emit(instance.columns)
    else:
        click.echo(instance.document.decode())


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="PNG to write."
)
@click.option("--frame", type=click.IntRange(min=1), help="Frame number, from 1.")
@click.option("--window", metavar="C,W", help="Window centre and width.")
@click.option("--max-side", type=int, help="Longest side in pixels; 0 keeps the native size.")
@click.pass_context
def render(ctx: click.Context, /, file: Path, output: Path, **options: Any) -> None:
    """Write the preview of one frame as a PNG."""
    from app.dicom.dataset import read_dataset
    from app.dicom.preview import preview

    frame = None if options["frame"] is None else str(options["frame"])
    settings = settings_of(
        ctx, preview__frame=frame, preview__window=options["window"], preview__max_side=options["max_side"]
    )
    output.write_bytes(preview(read_dataset(_content(file)), settings.describe_options().preview))
    emit({"preview": str(output)})


@cli.command()
@click.argument("sql")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of objects instead of a table.")
@click.pass_context
def query(ctx: click.Context, sql: str, as_json: bool) -> None:
    """Run read-only SQL on the warehouse."""
    warehouse = open_warehouse(settings_of(ctx).warehouse.url)
    try:
        rows = warehouse.query(sql)
    finally:
        warehouse.close()
    if as_json:
        emit(rows)
    else:
        click.echo(table(rows))


@cli.group("dlq")
def dlq_group() -> None:
    """Dead letters: what could not be processed, with the reason."""


@dlq_group.command("list")
@click.pass_context
def dlq_list(ctx: click.Context) -> None:
    """Print the open dead letters, oldest first."""
    with opened(ctx) as services:
        for row in dlq.letters(services.warehouse):
            emit(row)


@dlq_group.command("show")
@click.argument("message_id")
@click.pass_context
def dlq_show(ctx: click.Context, message_id: str) -> None:
    """Print one dead letter with every failed attempt."""
    with opened(ctx) as services:
        emit(dlq.letter(services.warehouse, message_id))


def _chosen(services: Services, ids: tuple[str, ...], everything: bool) -> list[str]:
    if bool(ids) == everything:
        raise click.UsageError("name dead letters by id, or give --all")
    return list(ids) or [str(row["message_id"]) for row in dlq.letters(services.warehouse)]


@dlq_group.command("requeue")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every open dead letter.")
@click.pass_context
def dlq_requeue(ctx: click.Context, ids: tuple[str, ...], everything: bool) -> None:
    """Publish dead letters again, with their own event type and generation."""
    with opened(ctx) as services:
        for message_id in dlq.requeue(services, _chosen(services, ids, everything)):
            emit({"requeued_as": message_id})


@dlq_group.command("purge")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every open dead letter.")
@click.pass_context
def dlq_purge(ctx: click.Context, ids: tuple[str, ...], everything: bool) -> None:
    """Drop dead letters for good."""
    with opened(ctx) as services:
        emit({"purged": dlq.purge(services.warehouse, _chosen(services, ids, everything))})


@cli.group("config")
def config_group() -> None:
    """Settings: what is in force and where it came from."""


@config_group.command("show")
@click.pass_context
def config_show(ctx: click.Context) -> None:
    """Print every setting with its value and origin; secrets are masked."""
    loaded = config.load(arguments=ctx.obj)
    for path, origin in sorted(loaded.origins.items()):
        section, key = path.split(".")
        value = loaded.settings.model_dump(mode="json")[section][key]
        emit({"setting": path, "value": value, "from": origin})


@config_group.command("check")
@click.pass_context
def config_check(ctx: click.Context) -> None:
    """Exit 2 with the path of each fault, or 0."""
    config.load(arguments=ctx.obj)
    click.echo("the configuration is valid", err=True)


def main() -> None:
    """Entry point of the `dicomlake` command."""
    cli()
