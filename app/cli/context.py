"""Shared by all commands: settings, open backends, JSON lines, and one sentence for each error."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
import orjson

from app import config
from app.cli.text_table import readable
from app.model.errors import ConfigError, DicomlakeError
from app.services import Services, open_services
from app.telemetry import log
from app.warehouse import Warehouse, open_warehouse

INTERRUPTED = 130
RUNNING = ("serve", "receive", "orthanc")
"""Commands that run until they are stopped, or may."""
LONG = 100
"""Minimum number of steps of a task with a progress bar."""
DRAW_S = 0.1
"""Seconds between two updates of a progress bar."""
GUESS = 20
"""A bar estimates the remaining time after 1/GUESS of the steps, because the first are the slowest."""
_SECRETS = re.compile(r"(?<=://)([^/?#\s:@]*):[^/?#\s]*@|([?&](?:ssl)?password=)[^&#\s]*")
_SECRET = re.compile(r"(?i)password|secret|token|key|pem|jaas|oauthbearer\.config")
"""Names of options of librdkafka whose values are secret."""


class Failure(click.ClickException):
    """One sentence on stderr and an exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]  # a class variable only by its annotation


class Commands(click.Group):
    """Converts our errors to exit codes: 2 wrong use or configuration, 1 something failed."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise Failure(masked(error.text), 2) from None
        except DicomlakeError as error:
            raise Failure(f"{error.code}: {error.text}", 1) from None


def start(commands: click.Group) -> NoReturn:
    """Run the command line as this process; a bug ends it with a log line."""
    log.guard()
    run(commands)


def run(commands: click.Group) -> NoReturn:
    """Run the command line and exit; only bugs are not caught."""
    try:
        code = commands.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except OSError as error:  # as a disk that is full; click itself ends quietly when nobody reads its output
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # else Python complains of what it could not write, again
        what = [str(part) for part in (error.filename, error.strerror or type(error).__name__) if part]
        click.echo(f"Error: {': '.join(what)}", err=True)
        code = 1
    sys.exit(code)


def emit(value: object) -> None:
    """Print one JSON line; bytes are base64, times RFC 3339."""
    click.echo(orjson.dumps(value, default=readable, option=orjson.OPT_PASSTHROUGH_DATETIME).decode())


def masked(text: str) -> str:
    """Return a text with the passwords in URLs masked."""
    return _SECRETS.sub(lambda found: f"{found[1]}:***@" if found[2] is None else f"{found[2]}***", text)


def without_secrets(key: str, value: Any) -> Any:
    """Return the value of a setting with its secrets masked; of a webhook also the query of its address."""
    if key == "headers":
        return dict.fromkeys(value, "***")
    if key == "kafka":
        return {name: "***" if _SECRET.search(name) else one for name, one in value.items()}
    if key.endswith("urls"):
        return [re.sub(r"\?.*", "?***", masked(url)) for url in value]
    if value and f"_{key}".endswith(("_key", "_secret", "_password")):
        return "***"
    return masked(value) if isinstance(value, str) else value


def settings_of(
    ctx: click.Context, rules: config.Rules = lambda _: (), **arguments: object
) -> config.Settings:
    """Return the effective settings and set up logging; by default only what keeps running logs."""
    given = {path.replace("__", "."): value for path, value in arguments.items() if value is not None}
    loaded = config.load(arguments={**ctx.obj, **given}, rules=rules)
    quiet = ctx.info_name not in RUNNING and loaded.origins["log.level"] == "defaults"
    log.configure("critical" if quiet else loaded.settings.log.level, loaded.settings.log.format)
    return loaded.settings


class Bar:
    """A progress bar: the last line of the terminal on stderr, below the lines of stdout."""

    def __init__(self, label: str, hidden: bool = False) -> None:
        self._label, self._shown, self._text = label, 0, ""
        self._hidden = hidden or not sys.stderr.isatty()
        self._shared = not self._hidden and sys.stdout.isatty()
        self._begin, self._last, self._done = time.monotonic(), 0.0, 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo(err=True)

    def show(self, done: int, total: int) -> None:
        """Show the number done and the total, no more often than readable."""
        now = time.monotonic()
        if self._hidden or (done < total and now < self._last + DRAW_S):
            return
        self._last, took = now, now - self._begin
        left = f", about {took / done * (total - done):.0f} s left" if total / GUESS < done < total else ""
        self._text = f"{self._label} {100 * done // max(total, 1)}%: {done} of {total}{left}"
        self._clear()
        self._draw()

    def count(self, done: int) -> None:
        """Show the number done, where the total is not known."""
        now = time.monotonic()
        if self._hidden or now < self._last + DRAW_S:
            return
        self._last, self._text = now, f"{self._label}: {done}"
        self._clear()
        self._draw()

    def advance(self, steps: int, total: int) -> None:
        """Add to the number done."""
        self._done += steps
        self.show(self._done, total)

    def emit(self, value: object) -> None:
        """Print one JSON line; clear the bar first, which may be on the same terminal."""
        self.print(orjson.dumps(value, default=readable).decode())

    def print(self, line: str) -> None:
        """Print one line; clear the bar first."""
        if self._shared:
            self._clear()
        click.echo(line)
        if self._shared:
            self._draw()

    def _draw(self) -> None:
        text = self._text[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be cleared
        click.echo(text, nl=False, err=True)
        self._shown = len(text)

    def _clear(self) -> None:
        if self._shown:
            click.echo(f"\r{' ' * self._shown}\r", nl=False, err=True)
            self._shown = 0


@contextmanager
def until_stopped() -> Iterator[Callable[[], object]]:
    """Yield a function that waits for SIGINT or SIGTERM, so that a service manager can stop a command."""
    stopped = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopped.wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def opened(ctx: click.Context) -> Iterator[Services]:
    """Open services for one command."""
    services = open_services(settings_of(ctx))
    try:
        yield services
    finally:
        services.close()


@contextmanager
def reading(ctx: click.Context) -> Iterator[Warehouse]:
    """Open only the warehouse, for a command that creates nothing; fail if it does not exist."""
    warehouse = open_warehouse(settings_of(ctx).warehouse.url)
    try:
        yield warehouse
    finally:
        warehouse.close()
