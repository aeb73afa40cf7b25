"""``edgeprune bench personalization``."""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._cli_common import CliError, Output, output_options
from .runtime.errors import InputError

if TYPE_CHECKING:
    from .bench._cells import Level
    from .bench._study import Study
    from .bench._users import UserFiles
    from .bench.personalization import StudyReport
    from .devices import Preprocess
    from .runtime.settings import Settings

__all__ = ["personalization"]

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_CLASSES_PER_USER, _USERS = 10, 20
_SHOWN = 5


@click.command("personalization")
@click.argument("model")
@click.argument("data", required=False, type=_FOLDER)
@click.option("--adapt", type=_FOLDER, help="Class folders whose samples adapt.")
@click.option("--test", type=_FOLDER, help="Class folders whose samples score.")
@click.option(
    "--classes-per-user",
    type=click.IntRange(min=1),
    help="Classes that a user meets, drawn by seed.  [10; in recordings all]",
)
@click.option("--users", type=click.IntRange(min=1), help="How many.  [20; in recordings all]")
@click.option("--seed", type=click.IntRange(min=0), default=200, show_default=True)
@click.option(
    "--test-per-class", type=click.IntRange(min=1), help="Score on so many of a class only."
)
@click.option(
    "--user-pattern",
    metavar="REGEX",
    help="Reads user, label and take off the path below DATA, suffix left out. [USER/LABEL/FILE]",
)
@click.option("--adapt-takes", default="odd", show_default=True, help="even, odd, or 1-5,8.")
@click.option("--test-takes", default="even", show_default=True, help="even, odd, or 1-5,8.")
@click.option("--user", "names", multiple=True, help="Only this user of DATA; may be repeated.")
@click.option(
    "--stream",
    type=click.Choice(["balanced", "stays", "skewed", "one-class", "mixed"]),
    default="balanced",
    show_default=True,
    help="What adapts: every class alike; the same in stays of a few; 7 of 10 of one class; only "
    "that; half somebody else's.",
)
@click.option("--label-map", type=_FILE, metavar="CSV", help="From the data's labels to classes.")
@click.option("--arms", default="all", show_default=True, help="Such as A0,A4,C2.")
@click.option(
    "--sparsity",
    default="0,0.3,0.5,0.7,0.8",
    show_default=True,
    help="Shares of the units in scope; auto is what the method chooses. 0 is A1+.",
)
@click.option("--samples", default="20,50,100,300", show_default=True, help="To adapt to.")
@click.option("--factory", metavar="PKG.MOD:F", help="PyTorch module behind the model, for C2, C4.")
@click.option("--weights", metavar="FILE", help="Its weights.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of personalisation, or one of the baselines' (bn_prior_samples, t3a_supports, "
    "epochs, batch, lr_last, lr_whole, lr_last_labels, lr_whole_labels).",
)
@click.option(
    "--results",
    type=_FILE,
    default=Path("personalization.jsonl"),
    show_default=True,
    help="Cells are added here; what is there is not measured again.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--cluster", metavar="ADDRESS", help="A running Dask scheduler, tcp://HOST:PORT.")
@click.option("--plots", type=_FOLDER, help="Write pictures there.")
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
@output_options
def personalization(
    *,
    model: str,
    results: Path,
    jobs: int,
    cluster: str | None,
    plots: Path | None,
    markdown: bool,
    output: Output,
    **options: Any,
) -> None:
    """Compare personalisation with what else could be done with the same samples.

    Users are drawn by seed from class folders (--adapt and --test), or are the speakers of a
    folder of recordings, DATA. Every arm gets the same samples of a user and is scored on the same
    others, on one thread. MODEL may hold {user}, for a network that never heard the user.

    A0 dense; A1 EM prior; A1+ personalised with all units kept; A2 masks only; A3 masks and repair;
    A4 personalised; A5 compacted; C1 known classes; C2 fine-tuning by backprop; C3 BatchNorm
    statistics and T3A; C4 Torch-Pruning. A study that was interrupted goes on where it was.
    """
    if markdown and output.as_json:
        raise click.UsageError("--markdown and --json exclude each other.")
    if plots is not None:
        from .bench._plots import check_plots

        check_plots()
    study = _study(model, options)
    output.note(_who(study, options))
    from .bench.personalization import run_study

    with output.progress() as on_progress:
        report = run_study(study, results, jobs=jobs, cluster=cluster, on_progress=on_progress)
    _show(report, output, plots, markdown=markdown)


def _study(model: str, options: Mapping[str, Any]) -> Study:
    from .bench._streams import bent
    from .bench._study import Study
    from .bench.arms import choose_arms

    settings, baselines = _changed(options["changes"])
    label_map = options["label_map"]
    if label_map is not None:
        from ._labels import read_label_map

        label_map = read_label_map(label_map)
    return Study(
        users=bent(_users(model, options), options["stream"]),
        model=model,
        arms=choose_arms(options["arms"]),
        levels=_levels(options["sparsity"]),
        samples=_counts(options["samples"]),
        settings=settings,
        baselines=baselines,
        factory=options["factory"],
        weights=options["weights"],
        label_map=label_map or {},
    )


def _changed(changes: Sequence[str]) -> tuple[Settings, Any]:
    """The settings and the baselines' recipes, with what the command line changes."""
    from .bench._study import Baselines
    from .runtime.settings import Settings

    records: list[Any] = [Settings(), Baselines()]
    for change in changes:
        name, equals, text = change.partition("=")
        holders = [
            place
            for place, record in enumerate(records)
            if name in {field.name for field in fields(record)} - {"sparsity", "threads"}
        ]
        if not equals or not holders:
            raise click.UsageError(f"--set {change}: there is no such setting to change.")
        records[holders[0]] = replace(records[holders[0]], **{name: _value(text)})
    return records[0], records[1]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _levels(text: str) -> tuple[Level, ...]:
    found: list[Level] = []
    for part in (part.strip() for part in text.split(",")):
        try:
            level = "auto" if part == "auto" else float(part)
        except ValueError:
            level = -1.0
        if isinstance(level, float) and not 0 <= level < 1:
            raise click.UsageError(f"--sparsity {part!r}: give shares from 0 to below 1, or auto.")
        found.append(level)
    return tuple(dict.fromkeys(found))


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise click.UsageError(f"--samples {text!r}: give numbers, as in 20,100.")
    return tuple(dict.fromkeys(map(int, parts)))


def _users(model: str, options: Mapping[str, Any]) -> list[UserFiles]:
    data, adapt, test = options["data"], options["adapt"], options["test"]
    if (data is None) == (adapt is None and test is None):
        raise click.UsageError("Give either DATA, a folder of recordings, or --adapt and --test.")
    if data is None and (adapt is None or test is None):
        raise click.UsageError("--adapt and --test belong together.")
    return _drawn(model, options) if data is None else _recorded(model, options)


def _drawn(model: str, options: Mapping[str, Any]) -> list[UserFiles]:
    from .bench._users import class_users, seeds_are_for

    if "{user}" in model:
        raise click.UsageError("{user} in MODEL is for the users of DATA.")
    seed, users = options["seed"], options["users"] or _USERS
    seeds_are_for(seed, users)
    return class_users(
        options["adapt"],
        options["test"],
        _preprocess(Path(model)),
        classes_per_user=options["classes_per_user"] or _CLASSES_PER_USER,
        seeds=range(seed, seed + users),
        test_per_class=options["test_per_class"],
    )


def _recorded(model: str, options: Mapping[str, Any]) -> list[UserFiles]:
    from .bench._users import DEFAULT_PATTERN, parse_takes, recording_users

    names = list(options["names"])
    users = recording_users(
        options["data"],
        _preprocess(_first_model(model, names)),
        pattern=options["user_pattern"] or DEFAULT_PATTERN,
        adapt_takes=parse_takes(options["adapt_takes"]),
        test_takes=parse_takes(options["test_takes"]),
        names=names,
        classes_per_user=options["classes_per_user"],
        seed=options["seed"],
    )
    return users[: options["users"]]


def _first_model(model: str, names: Sequence[str]) -> Path:
    """Any user's model: they differ in whom they heard, not in how they hear."""
    if "{user}" not in model:
        return Path(model)
    if names:
        return Path(model.replace("{user}", names[0]))
    root = Path(model).anchor or "."
    pattern = glob.escape(str(Path(model).relative_to(root))).replace("{user}", "*")
    found = sorted(Path(root).glob(pattern))
    if not found:
        raise InputError(f"no model fits {model}. Nothing was run.")
    return found[0]


def _preprocess(model: Path) -> Preprocess:
    from ._sources import model_preprocess
    from .runtime.artifact import Artifact

    return model_preprocess(Artifact.open(model))


def _who(study: Study, options: Mapping[str, Any]) -> str:
    """Say who is measured, and whether that is for choosing methods or for the last word."""
    from .bench._users import seeds_are_for

    users = study.users
    if options["data"] is not None:
        names = ", ".join(user.name for user in users[:_SHOWN])
        more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
        return f"edgeprune: {len(users)} users: {names}{more}"
    kind = seeds_are_for(users[0].seed, len(users))
    purpose = {
        "development": "for choosing methods and settings",
        "final": "to be scored once, at the end: choose nothing by them",
        "trial": "for trying the command",
    }
    seeds = f"seeds {users[0].seed} to {users[-1].seed}"
    return f"edgeprune: {len(users)} {kind} users ({seeds}), {purpose[kind]}"


def _show(report: StudyReport, output: Output, plots: Path | None, *, markdown: bool) -> None:
    from .bench._tables import as_markdown, as_text

    for arm, reason in report.skipped.items():
        output.note(f"edgeprune: {arm} is left out: {reason}")
    codes = {cell.code for cell in report.cells}
    if len(codes) > 1:
        output.note(
            f"edgeprune: the runtime's code changed in between: {report.results} holds results of "
            f"{len(codes)} versions. Measure again into another file before you publish."
        )
    data = report.to_dict()
    if plots is not None:
        from .bench._plots import write_plots

        data["plots"] = [str(p) for p in write_plots(report.summary, report.cells, plots)]
        output.note(f"edgeprune: {len(data['plots'])} pictures in {plots}")
    output.result(data, (as_markdown if markdown else as_text)(report.summary))
    if report.failed:
        raise CliError(_failures(report))


def _failures(report: StudyReport) -> str:
    first = report.failed[0]
    key = first.key
    return (
        f"{len(report.failed)} of {len(report.cells)} cells failed; the first is user {key.user}, "
        f"{key.arm}, sparsity {key.sparsity}, {key.samples} samples: {first.reason} They are tried "
        "again when the same command is run again."
    )
