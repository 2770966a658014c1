"""The commands for a lake as a whole: reconcile, backfill, reprocess, status, doctor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from app.cli.context import Bar, emit, masked, opened, reading, settings_of
from app.jobs import backfill as backfilling
from app.jobs import doctor as doctoring
from app.jobs import lane
from app.jobs.compare import places
from app.jobs.reconcile import AGE_S, Wanted, differences
from app.jobs.reconcile import reconcile as reconcile_lake
from app.model.errors import DicomlakeError
from app.services import Services, open_lane
from app.warehouse import open_warehouse

JSON = click.option("--json", "as_json", is_flag=True, help="JSON lines instead of text.")
RATE = click.option("--rate", type=click.FloatRange(min=1), default=lane.RATE, show_default=True,
                    help="Events a second at most; it begins with 500, doubled every 20 min.")  # fmt: skip
RESUME = click.option("--resume", "job_id", metavar="JOB", help="Go on with a job that was interrupted.")
MANIFEST = click.option("--manifest", type=click.Path(dir_okay=False, path_type=Path),
                        help="Append a JSON line for each published object to this file.")  # fmt: skip
Run = Callable[[Services, Any, lane.Job, lane.Pacing, backfilling.Reporting], dict[str, object]]


def show(values: Mapping[str, object], as_json: bool) -> None:
    """Print values: as a JSON line, or a line each."""
    if as_json:
        emit(values)
        return
    for name, value in values.items():
        if isinstance(value, dict):
            for inner, number in value.items():
                click.echo(f"{name}.{inner}: {number}")
        else:
            click.echo(f"{name}: {'' if value is None else value}")


@click.command()
@click.option("--fix", is_flag=True, help="Publish the events that were lost.")
@click.option("--age", "age_s", type=click.FloatRange(min=0), default=AGE_S, show_default=True,
              metavar="SECONDS", help="Leave out what is younger: it may still be on its way.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print only the summary.")
@JSON
@click.pass_context
def reconcile(ctx: click.Context, fix: bool, age_s: float, quiet: bool, as_json: bool) -> None:
    """Compare what the storage holds with the rows, and print where they differ.

    Exits with 1 if they do. Changes nothing without --fix, which publishes events and never edits rows.
    """
    with opened(ctx) as services, open_lane(services) as bus, Bar("reconcile") as bar:
        wanted = Wanted(tuple(places(services)), fix, age_s)

        def line(found: dict[str, object]) -> None:
            if quiet:
                return
            if as_json:
                bar.emit(found)
            else:
                bar.print(" ".join(str(value) for value in found.values()))

        summary = reconcile_lake(services, bus, wanted, line, bar.count)
    show({"summary": summary} if as_json else summary, as_json)
    if differences(summary) and not fix:
        ctx.exit(1)


@click.command()
@click.argument("url", required=False)
@click.option("--dry-run", is_flag=True, help="Only count: objects, bytes, hours and USD.")
@RATE
@RESUME
@MANIFEST
@JSON
@click.pass_context
def backfill(
    ctx: click.Context, /, url: str | None, dry_run: bool, job_id: str | None, **options: Any
) -> None:
    """Publish an event for every object below URL that has no row; the service then processes them.

    URL is in source.url or source.buckets. Ctrl-C keeps what was done: go on with --resume.
    """
    if (url is None) == (job_id is None) or (dry_run and job_id):
        raise click.UsageError("name a URL, or give --resume JOB")
    if dry_run:
        with opened(ctx) as services, Bar("list") as bar:
            found = backfilling.estimate(services, str(url), options["rate"], bar.count)
        show(found, options["as_json"])
        return
    with opened(ctx) as services:
        if url is not None:
            places(services, url)
        _run(ctx, services, "backfill", {"url": url}, job_id, backfilling.backfill, options)


@click.command()
@click.option("--older-than", metavar="VERSION", help="Rows made by older versions of the software.")
@click.option("--where", metavar="SQL", help="Rows for which this condition on their columns is true.")
@click.option("--dry-run", is_flag=True, help="Only count objects and hours.")
@RATE
@RESUME
@MANIFEST
@JSON
@click.pass_context
def reprocess(
    ctx: click.Context,
    /,
    older_than: str | None,
    where: str | None,
    dry_run: bool,
    job_id: str | None,
    **options: Any,
) -> None:
    """Have objects described again, as revisions that replace their rows, documents and previews."""
    if [older_than, where, job_id].count(None) != 2 or (dry_run and job_id):
        raise click.UsageError("give one of --older-than VERSION, --where SQL, --resume JOB")
    arguments = {"older_than": older_than} if older_than else {"where": where}
    with opened(ctx) as services:
        if dry_run:
            count = sum(1 for _ in backfilling.rows_to_reprocess(services, arguments, ""))
            hours = round(lane.seconds_for(count, options["rate"]) / 3600, 2)
            show({"to_publish": count, "hours": hours}, options["as_json"])
            return
        if older_than:
            backfilling.older_versions(services.warehouse, older_than)
        _run(ctx, services, "reprocess", arguments, job_id, backfilling.reprocess, options)


def _run(
    ctx: click.Context,
    services: Services,
    command: str,
    arguments: Mapping[str, object],
    job_id: str | None,
    run: Run,
    options: Mapping[str, Any],
) -> None:
    """Run a new job, or go on with one; Ctrl-C prints how."""
    job = lane.resume(services, command, job_id) if job_id else lane.begin(services, command, arguments)
    click.echo(f"job {job.id}", err=True)
    try:
        with open_lane(services) as bus, Bar(command) as bar, _noted(options["manifest"]) as note:
            reporting = backfilling.Reporting(bar.count, note)
            counts = run(services, bus, job, lane.Pacing(options["rate"]), reporting)
    except KeyboardInterrupt:
        click.echo(f"go on with: dicomlake {command} --resume {job.id}", err=True)
        raise
    show({"job": job.id, **counts}, options["as_json"])


@contextmanager
def _noted(manifest: Path | None) -> Iterator[Callable[[dict[str, object]], object]]:
    if manifest is None:
        yield lambda line: None
        return
    with manifest.open("a", encoding="utf-8", buffering=1) as stream:  # a killed process must not lose lines
        yield lambda line: stream.write(json.dumps(line) + "\n")


@click.command()
@click.argument("job_id", metavar="JOB", required=False)
@JSON
@click.pass_context
def status(ctx: click.Context, job_id: str | None, as_json: bool) -> None:
    """Print where a job of backfill or reprocess stands; the last jobs if none is named."""
    with reading(ctx) as warehouse:
        rows = [lane.job_row(warehouse, job_id)] if job_id else lane.job_rows(warehouse)
    if not rows:
        click.echo("there is no job yet", err=True)
    for row in rows:
        show(row, as_json)


@click.command()
@click.option("--probe", "probing", is_flag=True, help="Send one small object through, and remove it.")
@JSON
@click.pass_context
def doctor(ctx: click.Context, probing: bool, as_json: bool) -> None:
    """Check settings, folders or buckets, queue, tables and views, one line each; exit 1 if a check fails.

    Each fault comes with the command that mends it.
    """
    failed = 0
    for check in _checks(ctx, probing):
        failed += bool(check.fault)
        if as_json:
            emit(check.line)
        else:
            click.echo(f"ok    {check.name}" if not check.fault else f"FAIL  {check.name}: {check.fault}")
            if check.fault:
                click.echo(f"      do: {check.mend}")
    if failed:
        ctx.exit(1)


def _checks(ctx: click.Context, probing: bool) -> Iterator[doctoring.Check]:
    settings = settings_of(ctx)
    first = doctoring.settings_check(settings)
    yield first
    if first.fault:
        return
    with closing(open_warehouse(settings.warehouse.url)) as warehouse:
        try:  # before it is opened for writing, which updates the tables of a laptop
            yield doctoring.tables_check(warehouse.outdated(), warehouse.dialect)
        except DicomlakeError as error:
            yield doctoring.Check(
                "tables and views", masked(error.text), "run `dicomlake serve`: it makes them"
            )
            return
    with opened(ctx) as services:
        yield from doctoring.examine(services)
        if probing:
            yield from doctoring.probe(services)


COMMANDS: tuple[click.Command, ...] = (reconcile, backfill, reprocess, status, doctor)
