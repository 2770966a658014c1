"""The command line: parse, call one function, print; JSON lines on stdout, words on stderr."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from app import __version__, config
from app.cli import fleet
from app.cli.context import (
    LONG,
    Bar,
    Commands,
    Failure,
    emit,
    opened,
    reading,
    settings_of,
    start,
    until_stopped,
    without_secrets,
)
from app.cli.one_file import in_worker, picture_of
from app.cli.text_table import table
from app.jobs import dead_letters
from app.jobs import ingest as ingesting
from app.jobs.adopt import adopt, check_profile
from app.jobs.file_content import content_of
from app.jobs.prune import prune
from app.jobs.retention import retain
from app.jobs.scan import Reading, check_output, scan_to
from app.model.errors import ConfigError, DicomlakeError
from app.model.names import spelled
from app.services import open_dimse, open_orthanc, open_services, open_workers
from app.warehouse import Warehouse


def _assignments(_: click.Context, __: click.Parameter, values: Iterable[str]) -> dict[str, object]:
    pairs = [value.partition("=") for value in values]
    if wrong := next((key for key, sign, _value in pairs if not sign or "." not in key), None):
        raise click.BadParameter(f"{wrong}: write it as section.key=value")
    return {key: value for key, _sign, value in pairs}


DAY_S = 86_400
PROFILE = "basic"
"""Default profile of clean copies."""
SHOWN = ("message_id", "publish_time", "object_uri", "code", "reason")
"""Columns of a dead letter in the table on a terminal."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dicomlake")
@click.option("--set", "arguments", multiple=True, metavar="SECTION.KEY=VALUE", callback=_assignments,
              help="Set one setting; may be given several times.")  # fmt: skip
@click.pass_context
def cli(ctx: click.Context, arguments: dict[str, object]) -> None:
    """DICOM objects in a bucket become JSON documents, PNG previews and rows to query."""
    ctx.obj = arguments


@cli.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--accept-removals", is_flag=True, help="Treat missing files as removed; no disk is unmounted.")
@click.pass_context
def serve(ctx: click.Context, host: str | None, port: int | None, accept_removals: bool) -> None:
    """Run the HTTP service; with a folder as source also the watcher and the queue."""
    from app.api import server

    settings = settings_of(ctx, server.faults, api__host=host, api__port=port)
    with server.listen(settings.api.host, settings.api.port) as sock:
        services = open_services(settings)
        try:
            check_profile(services)
        except DicomlakeError:
            services.close()
            raise
        server.serve(replace(services, accept_removals=accept_removals), sock)


@cli.command()
@click.option("--once", is_flag=True, help="Exit when every sample has ended: 0 if each ended as it should.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the demo's lake, kept afterwards.")
@click.option("--port", type=int, help="Port to listen on.")
@click.pass_context
def demo(ctx: click.Context, once: bool, keep: Path | None, port: int | None) -> None:
    """Start the service and drop pydicom's sample files into the landing folder."""
    from app.api import server
    from app.cli import demo as room

    with room.lake(once, keep) as places:
        ctx.obj = {**places, **ctx.obj}
        settings = settings_of(ctx, server.faults, api__port=port)
        if not room.run(settings, once, emit):
            ctx.exit(1)


@cli.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--again", is_flag=True, help="Also describe files again that have a row with these settings.")
@click.option("--failures", is_flag=True, help="Print only the lines of what failed, and the summary.")
@click.option("--quiet", is_flag=True, help="No bar, and no line but the summary and those of --failures.")
@click.option("--prune", "folder", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path),
              help="Then remove from the lake the files that are gone from this folder.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Prune even if a disk seems to be unmounted.")
@click.pass_context
def ingest(
    ctx: click.Context, /, paths: tuple[Path, ...], again: bool, folder: Path | None, **options: bool
) -> None:
    """Put files and folders through the pipeline now, read where they lie.

    A file whose row was made with the current settings is `unchanged` and not read. With other settings it
    is described again; that revision replaces its row, document and preview.
    """
    if not paths and folder is None:
        raise click.UsageError("name files or folders to ingest, or give --prune FOLDER")
    if options["yes"] and folder is None:
        raise click.UsageError("--yes is for --prune FOLDER alone")
    if not paths:
        with reading(ctx) as warehouse:
            warehouse.check()
    quiet, failures = options["quiet"], options["failures"]
    summary: dict[str, object] = {}
    pruned: dict[str, object] = {}
    with opened(ctx) as services:
        check_profile(services)
        if folder is not None and services.cleaning and not services.cleaning.keep_names:
            raise ConfigError("--prune: needs names of files in rows; deidentify.names is hash")
        if paths:
            with Bar("ingest", quiet) as bar:
                tell = _wanted(bar.emit, quiet, failures)
                summary = ingesting.ingest(paths, services, tell, again, bar.show)
        try:
            if folder is not None:
                with Bar("prune", quiet) as bar:
                    tell = _wanted(bar.emit, quiet, failures)
                    summary["pruned"] = pruned = prune(folder, services, tell, options["yes"], bar.show)
        finally:  # report what was ingested even if the removals are refused
            if summary:
                if "dead_lettered" in summary:
                    summary["see"] = "dicomlake dlq list"
                emit({"summary": summary})
    if ingesting.FAULTS & {*summary, *pruned}:
        ctx.exit(1)


def _wanted(tell: ingesting.Emit, quiet: bool, failures: bool) -> Callable[[ingesting.Line], None]:
    """Return a function that passes on only the lines to print."""

    def take(line: ingesting.Line) -> None:
        if not (quiet or failures) or (failures and line["status"] in ingesting.FAULTS):
            tell(line)

    return take


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path),
              help="File to write: .parquet, .csv or .jsonl.")  # fmt: skip
@click.pass_context
def scan(ctx: click.Context, paths: tuple[Path, ...], output: Path) -> None:
    """Write the columns of `instances` for files anywhere, without a lake, on all cores.

    A file that is not DICOM gets a row with its `error`. OUTPUT appears when it is complete; run the same
    command again to go on with an interrupted scan.
    """
    settings = settings_of(ctx)
    check_output(output)
    with open_workers(settings) as workers, Bar("scan") as bar:
        reading = Reading(workers, settings.describe_options().without_preview(), settings.archive)
        summary = scan_to(output, paths, reading, bar.show)
    emit({"summary": summary})


def _regular(_: click.Context, __: click.Parameter, file: Path) -> Path:
    if not file.is_file():  # opening a pipe would block until someone writes to it
        raise click.BadParameter(f"{file} is no regular file")
    return file


FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), callback=_regular)


@cli.command()
@FILE
@click.option("--flat", is_flag=True, help="The row's columns instead.")
@click.option("--names", is_flag=True, help="Keywords beside tags.")
@click.pass_context
def dump(ctx: click.Context, file: Path, flat: bool, names: bool) -> None:
    """Print the DICOM JSON of a file, or of as much as can be read."""
    from app.dicom import describe_head

    if flat and names:
        raise click.UsageError("the columns of --flat have names: leave out --names")
    settings = settings_of(ctx)
    instance, fault = in_worker(settings, describe_head, content_of(file), settings.describe_options())
    if flat:
        emit(instance.columns)
    elif names:
        from app.dicom.metadata.keywords import with_keywords  # late, with pydicom

        click.echo(with_keywords(instance.document).decode())
    else:
        click.echo(instance.document.decode())
    if fault is not None:
        raise fault


def _picture_name(_: click.Context, __: click.Parameter, output: Path) -> Path:
    if output.suffix.lower() not in (".png", ".gif"):
        raise click.BadParameter(f"{output}: the name must end in .png or .gif")
    if not output.parent.is_dir():
        raise click.BadParameter(f"there is no folder {output.parent}")
    return output


def _write(output: Path, data: bytes) -> None:
    """Write a file that appears only when it is complete."""
    part = output.with_name(f"{output.name}.part")
    try:
        part.write_bytes(data)
        part.replace(output)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}", 1) from None
    finally:
        with suppress(OSError):
            part.unlink()


@cli.command()
@FILE
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), callback=_picture_name,
    help="Picture to write: .png for one frame, .gif for all as a cine.",
)  # fmt: skip
@click.option("--frame", type=click.IntRange(min=1), help="Frame number, from 1.")
@click.option("--window", metavar="C,W", help="Window centre and width.")
@click.option("--max-side", type=int, help="Longest side in pixels; 0 keeps the native size.")
@click.pass_context
def render(ctx: click.Context, /, file: Path, output: Path, **options: Any) -> None:
    """Write the preview of one frame as a PNG, or of all frames as a GIF."""
    frame = None if options["frame"] is None else str(options["frame"])
    moving = output.suffix.lower() == ".gif"
    if moving and frame is not None:
        raise click.UsageError("a .gif shows all frames: leave out --frame, or write a .png")
    settings = settings_of(
        ctx, preview__frame=frame, preview__window=options["window"], preview__max_side=options["max_side"]
    )
    _write(output, picture_of(settings, content_of(file), moving))
    emit({"preview": spelled(str(output))})


@cli.command()
@click.argument("source", required=False, type=click.Path(exists=True, path_type=Path))
@click.argument("target", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--check", "folder", metavar="DIR", type=click.Path(exists=True, path_type=Path),
              help="Report what is left in files that should be clean.")  # fmt: skip
@click.option("--profile", default=PROFILE, show_default=True, metavar="NAME|FILE",
              help="basic, research, internal, or a JSON file.")  # fmt: skip
@click.option("--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="File with the secret, instead of the setting deidentify.key.")  # fmt: skip
@click.option("--names", type=click.Choice(["hash", "keep"]), help="Names of files and folders.")
@click.option("--pixels", is_flag=True, help="Also find and remove text burned into pictures.")
@click.option("--quiet", is_flag=True, help="No bar, and only the lines of what is not clean.")
@click.option("--adopt", "adopting", is_flag=True,
              help="Change the lake to the profile in the settings: describe everything anew.")  # fmt: skip
@click.pass_context
def deidentify(
    ctx: click.Context,
    /,
    source: Path | None,
    target: Path | None,
    folder: Path | None,
    adopting: bool,
    **options: Any,
) -> None:
    """Write clean copies of files into a folder, check a folder of them, or change the lake's profile.

    The copies keep the folders' shape under keyed names; deidentified.csv in TARGET says which is which. A
    second run goes on where the first one ended.
    """
    from app.cli import cleaning  # late, with pydicom

    if adopting and source is None and folder is None:
        _adopt(ctx, options["quiet"])
        return
    if (folder is None) == (target is None) or adopting:
        raise click.UsageError("name SOURCE and TARGET, or give --check DIR or --adopt alone")
    pixels = options["pixels"] or None
    settings = settings_of(ctx, deidentify__names=options["names"], deidentify__pixels=pixels)
    quiet = options["quiet"]
    with Bar("check" if folder else "deidentify", quiet) as bar:
        tell = _unclean(bar.emit) if quiet else bar.emit
        if folder is not None:
            summary = cleaning.check(folder, settings, options["profile"], tell, bar.show)
        else:
            assert source is not None
            assert target is not None
            secret = cleaning.secret_of(settings, options["key_file"])
            job = cleaning.Job(source, target, options["profile"], secret)
            summary = cleaning.run(job, settings, tell, bar.show)
    emit({"summary": summary})
    if cleaning.FAULTS & summary.keys():
        ctx.exit(1)


def _adopt(ctx: click.Context, quiet: bool) -> None:
    with opened(ctx) as services, Bar("describe", quiet) as bar:
        tell = _unclean(bar.emit) if quiet else bar.emit
        summary = adopt(services, tell, bar.show)
    emit({"summary": summary})
    described = summary["described"]
    if isinstance(described, dict) and ingesting.FAULTS & described.keys():
        ctx.exit(1)


def _unclean(tell: ingesting.Emit) -> Callable[[ingesting.Line], None]:
    """Return a function that passes on only the lines of files that are not clean."""

    def take(line: ingesting.Line) -> None:
        if line["status"] not in ("clean", "stored", "unchanged"):
            tell(line)

    return take


@cli.command()
@click.argument("sql")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of objects instead of a table.")
@click.pass_context
def query(ctx: click.Context, sql: str, as_json: bool) -> None:
    """Run read-only SQL on the warehouse; bytes are shown in base64."""
    with reading(ctx) as warehouse:
        rows = warehouse.query(sql)
    if as_json:
        emit(rows)
        return
    click.echo(table(rows))


@cli.group("dlq")
def dlq_group() -> None:
    """Dead letters: what could not be processed, with the reason."""


@dlq_group.command("list")
@click.pass_context
def dlq_list(ctx: click.Context) -> None:
    """Print the open dead letters, oldest first: a table in a terminal, else JSON lines."""
    with reading(ctx) as warehouse:
        letters = dead_letters.letters(warehouse)
        if sys.stdout.isatty():
            click.echo(table([{name: letter[name] for name in SHOWN} for letter in letters]))
            return
        for letter in letters:
            emit(letter)


@dlq_group.command("show")
@click.argument("message_id")
@click.pass_context
def dlq_show(ctx: click.Context, message_id: str) -> None:
    """Print one dead letter with every failed attempt."""
    with reading(ctx) as warehouse:
        emit(dead_letters.letter(warehouse, message_id))


def _total(warehouse: Warehouse, ids: tuple[str, ...], everything: bool) -> int:
    """Return the number of letters; fail if there is no lake, before one is created."""
    if bool(ids) == everything:
        raise click.UsageError("name dead letters by id, or give --all")
    return dead_letters.count(warehouse, ids or None)


@dlq_group.command("requeue")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every open dead letter.")
@click.pass_context
def dlq_requeue(ctx: click.Context, ids: tuple[str, ...], everything: bool) -> None:
    """Publish dead letters again, with their own event type and generation."""
    with reading(ctx) as warehouse:
        total = _total(warehouse, ids, everything)
    failed = False
    with opened(ctx) as services, Bar("requeue", total < LONG) as bar:
        for line in dead_letters.requeue(services, ids or None):
            bar.emit(line)
            bar.advance(1, total)
            failed = failed or line.get("status") in ingesting.FAULTS
    if failed:
        ctx.exit(1)


@dlq_group.command("purge")
@click.argument("ids", nargs=-1)
@click.pass_context
def dlq_purge(ctx: click.Context, ids: tuple[str, ...]) -> None:
    """Drop dead letters for good: those named, or all of them."""
    with reading(ctx) as warehouse:
        total = _total(warehouse, ids, not ids)
        with Bar("purge", total < LONG) as bar:
            purged = dead_letters.purge(warehouse, ids or None, lambda steps: bar.advance(steps, total))
        emit({"purged": purged})


@cli.command()
@click.pass_context
def receive(ctx: click.Context) -> None:
    """Receive instances by C-STORE at dimse.port and put them into the landing storage, until stopped.

    Needs no warehouse, no bus and no HTTP port: run it where the modalities are.
    """
    with open_dimse(settings_of(ctx)) as receiver, until_stopped() as wait:
        receiver.start()
        wait()


@cli.group("pull")
def pull_group() -> None:
    """Copy what other systems hold into the landing storage."""


@pull_group.command("orthanc")
@click.option("--once/--follow", default=True, show_default=True,
              help="End when all is copied, or go on, with a look every orthanc.poll_s.")  # fmt: skip
@click.pass_context
def pull_orthanc(ctx: click.Context, once: bool) -> None:
    """Copy the new instances of the Orthanc at orthanc.url; what is there already is not written again.

    Prints how many were stored, unchanged, gone meanwhile, and failed. Needs no warehouse and no bus.
    """
    with open_orthanc(settings_of(ctx)) as poller, Bar("pull") as bar:
        if not once:
            poller.follow(bar.emit, bar.show)
            return
        counts = poller.pull(bar.show)
        bar.emit(counts)
    if counts["failed"]:
        ctx.exit(1)


def life_of(_ctx: click.Context, _option: click.Parameter, text: str) -> int:
    """Return the seconds that a token is valid, of `8h` or `30d`."""
    given = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", text)
    life_s = int(given[1]) * (DAY_S if given[2] == "d" else 3600) if given else 0
    if not 0 < life_s <= 3650 * DAY_S:
        raise click.BadParameter("give up to ten years in hours or days, such as 8h or 30d")
    return life_s


@cli.command()
@click.option("--subject", "--name", required=True, help="Whose token it is: the name in the audit log.")
@click.option("--role", type=click.Choice(["read-only", "user", "admin"]), default="read-only",
              show_default=True, help="What it allows.")  # fmt: skip
@click.option("--expires", default="90d", show_default=True, callback=life_of, help="Hours or days: 8h, 30d.")
@click.option("--days", type=click.IntRange(1, 3650), hidden=True, help="The same in days.")
@click.pass_context
def token(ctx: click.Context, subject: str, role: str, expires: int, days: int | None) -> None:
    """Print a token for the page, DICOMweb and REST, signed with `api.users_key`."""
    from app.api.users import Tokens, check_users

    api = settings_of(ctx).api.model_copy(update={"users": "token"})
    check_users(api)
    life_s = days * DAY_S if days else expires
    click.echo(Tokens(api.users_key).issue(subject, role, time.time(), life_s))


@cli.command()
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@click.pass_context
def retention(ctx: click.Context, dry_run: bool) -> None:
    """Archive and delete what is due by `retention`; `serve` does so every hour.

    Prints a line for each file, and how many of each. Row and artifacts of a deleted file stay.
    """
    with opened(ctx) as services:
        counts = retain(services, emit, dry_run)
    emit(counts)
    if counts["failed"]:
        ctx.exit(1)


@cli.group("config")
def config_group() -> None:
    """Settings: what is in force and where it came from."""


@config_group.command("show")
@click.pass_context
def config_show(ctx: click.Context) -> None:
    """Print every setting with its value and origin; passwords in URLs are masked."""
    loaded = config.load(arguments=ctx.obj)
    values = loaded.settings.model_dump(mode="json")
    for path, origin in sorted(loaded.origins.items()):
        section, key = path.split(".")
        value = values[section][key]
        emit({"setting": path, "value": without_secrets(key, value), "from": origin})


@config_group.command("check")
@click.pass_context
def config_check(ctx: click.Context) -> None:
    """Exit 2 with the path of each fault that keeps `serve` from starting, or 0; makes nothing."""
    from app.api import server

    config.load(arguments=ctx.obj, rules=server.faults)
    click.echo("the configuration is valid", err=True)


for command in fleet.COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Entry point of the `dicomlake` command."""
    start(cli)
