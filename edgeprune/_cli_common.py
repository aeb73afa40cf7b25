"""What every command shares: options, where results and progress go, and the form of an error."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from ._api import Model
    from ._compact_model import CompactModel

__all__ = [
    "MULTIPLE",
    "CliError",
    "FloatRange",
    "Output",
    "against_option",
    "assignment",
    "command_line",
    "constants_of",
    "constants_option",
    "model_argument",
    "open_model",
    "open_network",
    "output_options",
    "profile_options",
    "store_option",
    "threads_option",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SHOWN = 3


class CliError(click.ClickException):
    """An error that a user is to read: one message on stderr, and an exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click's is a class variable

    def show(self, file: Any = None) -> None:
        """Print it, without usage and without traceback."""
        click.echo(f"edgeprune: error: {self.format_message()}", err=True, file=file)


class FloatRange(click.FloatRange):
    """As click's, which lets NaN pass every bound: `--seconds nan` would never end."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse what is no number, or out of range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class _Multiple(click.ParamType):  # type: ignore[type-arg]  # generic for mypy only
    """A whole number, or what was measured for this board."""

    name = "integer|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto" or value is None:
            return None
        return click.IntRange(min=1).convert(value, param, ctx)


MULTIPLE = _Multiple()
"""Type of ``--channel-multiple``: None stands for auto."""


@dataclass(frozen=True)
class Output:
    """Results on stdout, all else on stderr."""

    as_json: bool
    quiet: bool
    verbose: bool

    def result(self, data: Any, text: str) -> None:
        """Print the outcome: `data` with ``--json``, else `text`."""
        if self.as_json:
            text = json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False, default=str)
        click.echo(text)

    def note(self, text: str) -> None:
        """Say something beside the outcome, unless ``--quiet``."""
        if not self.quiet:
            click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """Say something that only ``--verbose`` wants to know."""
        if self.verbose:
            click.echo(text, err=True)

    def unusable(self, rejected: Sequence[tuple[Path, str]]) -> None:
        """Name the files that could not be used: the first few, or with ``--verbose`` all."""
        shown = rejected if self.verbose else rejected[:_SHOWN]
        for path, reason in shown:
            self.note(f"edgeprune: cannot use {path}: {reason}")
        if len(rejected) > len(shown):
            self.note(f"edgeprune: and {len(rejected) - len(shown)} more files (-v lists them)")

    @contextlib.contextmanager
    def progress(self) -> Iterator[Callable[[str, float], None]]:
        """A function of step and share: bars on a terminal, one line a step elsewhere."""
        if self.quiet:
            yield lambda _step, _share: None
        elif not sys.stderr.isatty():
            yield _LinePerStep()
        else:
            with _bars() as report:
                yield report


class _LinePerStep:
    """Progress for a log: the name of each step when it begins."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, step: str, _share: float) -> None:
        if step not in self._seen:
            self._seen.add(step)
            click.echo(f"edgeprune: {step}", err=True)


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def report(step: str, share: float) -> None:
            if step not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=1.0)
                tasks[step] = bars.add_task(step, total=1.0)
            bars.update(tasks[step], completed=share)

        yield report


def output_options(command: _Command) -> _Command:
    """Add ``--json``, ``--quiet`` and ``--verbose``; the command gets an `Output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")
    @click.option("-v", "--verbose", is_flag=True, help="More notes on stderr.")
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> Any:
        output = Output(as_json, quiet, verbose and not quiet)
        return command(*args, output=output, **options)

    return cast("_Command", wrapped)


model_argument = click.argument("model", type=click.Path(path_type=Path))

store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that profiles are kept in. Default: $EDGEPRUNE_HOME, or edgeprune under "
    "$XDG_DATA_HOME or ~/.local/share.",
)

against_option = click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Another network to compare with, side by side: a model, or a compacted one.",
)

threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of one operator. Default: what this process may use, at most 4.",
)


def profile_options(command: _Command) -> _Command:
    """Add ``--profile`` and ``--dense``."""
    named = click.option("--profile", metavar="NAME", help="Profile to use instead of the active.")
    dense = click.option("--dense", is_flag=True, help="No profile: the network as trained.")
    return named(dense(command))


def constants_option(model: str) -> Callable[[_Command], _Command]:
    """``--set NAME=VALUE``, once for each input of `model` that is no input any more."""
    return click.option(
        "--set",
        "constants",
        multiple=True,
        metavar="NAME=VALUE",
        help=f"An input of {model} that always has this value, as in sr=16000.",
    )


def assignment(text: str) -> tuple[str, str]:
    """Take ``NAME=VALUE`` apart."""
    name, equals, value = text.rpartition("=")
    if not (name and equals and value):
        raise click.UsageError(f"{text!r}: write NAME=VALUE.")
    return name, value


def constants_of(texts: Sequence[str]) -> dict[str, Any]:
    """What ``--set`` was given: numbers, truth values or lists of them, by the input's name."""
    return {name: _value(name, text) for name, text in map(assignment, texts)}


def _value(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(
            f"--set {name}={text}: the value must be a number, true or false, or a list as [1, 2]."
        ) from error


def open_model(
    path: Path,
    store: Path | None,
    threads: int | None = None,
    *,
    profile: str | None = None,
    dense: bool = False,
) -> Model:
    """Open a model with the profile that the options ask for, else the active one."""
    from ._api import load

    if profile is not None and dense:
        raise click.UsageError("--profile and --dense exclude each other.")
    model = load(path, threads=threads, store=store)
    if profile is not None or dense:
        model.use(profile)
    return model


def open_network(
    path: Path,
    store: Path | None,
    threads: int | None = None,
    *,
    profile: str | None = None,
    dense: bool = False,
) -> Model | CompactModel:
    """Open a model as `open_model` does, or a compacted network, which has no profiles."""
    from ._compact_model import is_compacted, load_compact

    if not is_compacted(path):
        return open_model(path, store, threads, profile=profile, dense=dense)
    if profile is not None or dense:
        raise click.UsageError(
            f"{path} is a compacted network, which has no profiles: leave out --profile and "
            "--dense, or open the model that it was made from."
        )
    return load_compact(path, threads=threads)


def command_line(*words: str | Path) -> str:
    """A command that can be pasted into a shell."""
    return shlex.join(["edgeprune", *map(str, words)])
