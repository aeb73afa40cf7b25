"""Who the users of a study are, and which of their files adapt and which score."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..devices import Preprocess, open_folder
from ..runtime.errors import InputError

__all__ = [
    "DEFAULT_PATTERN",
    "Labelled",
    "UserFiles",
    "check_disjoint",
    "class_users",
    "data_digest",
    "parse_takes",
    "recording_users",
    "seeds_are_for",
]

Labelled = tuple[Path, str]
Takes = Callable[[int], bool]

DEFAULT_PATTERN = r"(?P<user>[^/]+)/(?P<label>[^/]+)/[^/]+"
_FIRST_DEVELOPMENT, _FIRST_FINAL = 100, 200
_ONLY_USER = "user"


@dataclass(frozen=True)
class UserFiles:
    """One user: the files that adapt, in the order of their choice, and those that score.

    The first n of `adapt` hold as many of each class as n allows, so a study of 20 samples sees
    a part of what one of 100 sees. In which order a stream of them comes is `stream`'s matter.
    ``stay`` is the mean number of samples of a class that follow each other there.
    """

    name: str
    seed: int
    classes: tuple[str, ...]
    adapt: tuple[Labelled, ...]
    test: tuple[Labelled, ...]
    stay: int = 1

    def stream(self, samples: int) -> list[int]:
        """Places in `adapt` of the first `samples` files, in the order of a stream.

        Shuffled, because sorted by class a stream would tell the labels; with a `stay` of more than
        one, each class stays for a geometric time and the next one is drawn.
        """
        rng = np.random.default_rng([self.seed, samples])
        order = [int(place) for place in rng.permutation(samples)]
        return order if self.stay == 1 else self._in_stays(order, rng)

    def _in_stays(self, shuffled: Sequence[int], rng: np.random.Generator) -> list[int]:
        waiting: dict[str, list[int]] = defaultdict(list)
        for place in shuffled:
            waiting[self.adapt[place][1]].append(place)
        order: list[int] = []
        while waiting:
            label = str(rng.choice(sorted(waiting)))
            count = int(rng.geometric(1 / self.stay))
            order += waiting[label][:count]
            del waiting[label][:count]
            if not waiting[label]:
                del waiting[label]
        return order


def seeds_are_for(seed: int, users: int) -> str:
    """What users of these seeds are for: ``development``, ``final`` or ``trial``.

    Methods and settings are chosen on the development users (seeds 100 to 199); the final ones
    (from 200 on) are scored once, at the end.

    Raises:
        InputError: the seeds belong to both.
    """
    last = seed + users - 1
    kinds = [
        "final" if s >= _FIRST_FINAL else "development" if s >= _FIRST_DEVELOPMENT else "trial"
        for s in (seed, last)
    ]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"seeds {seed} to {last} mix {kinds[0]} and {kinds[1]} users, who are kept apart: "
            f"development users have the seeds {_FIRST_DEVELOPMENT} to {_FIRST_FINAL - 1}, final "
            f"ones those from {_FIRST_FINAL} on. Nothing was run."
        )
    return kinds[0]


def class_users(
    adapt: Path,
    test: Path,
    preprocess: Preprocess,
    *,
    classes_per_user: int,
    seeds: Sequence[int],
    test_per_class: int | None = None,
) -> list[UserFiles]:
    """Users who each meet a few classes, drawn by seed out of two folders of class folders.

    Raises:
        InputError: the folders share too few classes.
        SourceError: a folder holds no samples.
    """
    adapting, scoring = (_by_label(folder, preprocess) for folder in (adapt, test))
    known = sorted(adapting.keys() & scoring.keys())
    if len(known) < classes_per_user:
        raise InputError(
            f"{adapt} and {test} share {len(known)} class folders; a user of {classes_per_user} "
            "cannot be drawn from them. Nothing was run."
        )
    users = []
    for seed in seeds:
        drawn = np.random.default_rng(seed).choice(known, classes_per_user, replace=False).tolist()
        users.append(
            UserFiles(
                f"seed-{seed}",
                seed,
                tuple(drawn),
                _balanced({label: adapting[label] for label in drawn}, seed),
                _all_of({label: scoring[label] for label in drawn}, test_per_class),
            )
        )
    return users


def recording_users(
    data: Path,
    preprocess: Preprocess,
    *,
    pattern: str = DEFAULT_PATTERN,
    adapt_takes: Takes,
    test_takes: Takes,
    names: Sequence[str] = (),
    classes_per_user: int | None = None,
    seed: int = 0,
) -> list[UserFiles]:
    """Users who are in a folder of recordings: whose each file is, `pattern` reads off its name.

    Args:
        data: the folder.
        preprocess: tells which files are samples.
        pattern: a regular expression for the path below `data`, without its suffix, with the group
            ``label`` and if need be ``user`` and ``take``; without a take the files of a label
            are numbered from 1 in sorted order.
        adapt_takes, test_takes: which takes adapt and which score.
        names: only these users; all if there are none.
        classes_per_user: how many words each user says, drawn by seed; None for all.
        seed: of the first user; the others' follow.

    Raises:
        InputError: the pattern fits no file, a take is in both parts, or a user is unknown.
        SourceError: the folder holds no samples.
    """
    takes = _by_user(data, preprocess, pattern)
    unknown = [name for name in names if name not in takes]
    if unknown:
        raise InputError(
            f"there is no user {unknown[0]!r}; there are: {', '.join(sorted(takes))}. "
            "Nothing was run."
        )
    users = []
    for place, name in enumerate(names or sorted(takes)):
        parts = _parts(takes[name], adapt_takes, test_takes)
        users.append(_recorded(name, seed + place, parts, classes_per_user))
    return users


def _recorded(
    name: str,
    seed: int,
    parts: tuple[Mapping[str, list[Path]], Mapping[str, list[Path]]],
    classes_per_user: int | None,
) -> UserFiles:
    adapting, scoring = parts
    known = sorted(adapting.keys() & scoring.keys())
    wanted = classes_per_user or len(known)
    if not known or len(known) < wanted:
        raise InputError(
            f"user {name!r} has {len(known)} labels with takes of both parts, and {wanted or 1} "
            "are needed. Nothing was run. Check --user-pattern, --adapt-takes and --test-takes."
        )
    if wanted < len(known):
        known = np.random.default_rng(seed).choice(known, wanted, replace=False).tolist()
    return UserFiles(
        name,
        seed,
        tuple(known),
        _balanced({label: adapting[label] for label in known}, seed),
        _all_of({label: scoring[label] for label in known}, None),
    )


def _by_label(folder: Path, preprocess: Preprocess) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    samples = open_folder(folder, preprocess)
    for path, label in zip(samples.paths, samples.labels, strict=True):
        if label is not None:
            found[label].append(path)
    return found


def _by_user(
    data: Path, preprocess: Preprocess, pattern: str
) -> dict[str, dict[str, list[tuple[int, Path]]]]:
    matcher = _compiled(pattern)
    found: dict[str, dict[str, list[tuple[int, Path]]]] = defaultdict(lambda: defaultdict(list))
    for path in open_folder(data, preprocess).paths:
        match = matcher.fullmatch(path.relative_to(data).with_suffix("").as_posix())
        if match is None:
            continue
        groups = match.groupdict()
        files = found[groups.get("user") or _ONLY_USER][groups["label"]]
        take = groups.get("take")
        files.append((len(files) + 1 if take is None else int(take), path))
    if not found:
        raise InputError(
            f"the pattern {pattern!r} fits no sample in {data}. Nothing was run. It is for the "
            "path below that folder without its suffix, all of it."
        )
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        matcher = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"{pattern!r} is no regular expression: {error}. Nothing was run."
        ) from error
    if "label" not in matcher.groupindex or not matcher.groupindex.keys() <= {
        "user",
        "label",
        "take",
    }:
        raise InputError(
            f"the pattern {pattern!r} needs the group (?P<label>…), and may have (?P<user>…) and "
            "(?P<take>…). Nothing was run."
        )
    return matcher


def _parts(
    takes: Mapping[str, Sequence[tuple[int, Path]]], adapt: Takes, test: Takes
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    parts: tuple[dict[str, list[Path]], ...] = ({}, {})
    for label, files in takes.items():
        both = [take for take, _ in files if adapt(take) and test(take)]
        if both:
            raise InputError(
                f"take {both[0]} of {label!r} would both adapt and score. Nothing was run; "
                "choose --adapt-takes and --test-takes that share none."
            )
        for part, wanted in zip(parts, (adapt, test), strict=True):
            chosen = [path for take, path in sorted(files) if wanted(take)]
            if chosen:
                part[label] = chosen
    return parts[0], parts[1]


def _balanced(files: Mapping[str, Sequence[Path]], seed: int) -> tuple[Labelled, ...]:
    """All files, drawn in rounds: one of each class, in an order of its own each round."""
    rng = np.random.default_rng([seed, len(files)])
    drawn = {label: rng.permutation(len(paths)).tolist() for label, paths in sorted(files.items())}
    labels, chosen = sorted(files), []
    for number in range(max(map(len, files.values()))):
        for label in rng.permutation(labels).tolist():
            if number < len(drawn[label]):
                chosen.append((files[label][drawn[label][number]], label))
    return tuple(chosen)


def _all_of(files: Mapping[str, Sequence[Path]], most: int | None) -> tuple[Labelled, ...]:
    return tuple((path, label) for label, paths in files.items() for path in paths[:most])


def parse_takes(text: str) -> Takes:
    """Read which takes are meant: ``even``, ``odd``, or numbers and ranges as in ``1-5,8``.

    Raises:
        InputError: it is something else.
    """
    if text in ("even", "odd"):
        rest = ("even", "odd").index(text)
        return lambda take: take % 2 == rest
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})(?:-([0-9]{1,9}))?\s*", part)
        if match is None:
            raise InputError(
                f"{text!r} names no takes: write even, odd, or numbers as in 1-5,8. "
                "Nothing was run."
            )
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return lambda take: any(low <= take <= high for low, high in ranges)


def check_disjoint(users: Iterable[UserFiles]) -> None:
    """Make sure that no user is scored on what adapted, whatever the files are called.

    Raises:
        InputError: two files of a user's two parts have the same content.
    """
    digests: dict[Path, bytes] = {}
    for user in users:
        adapting = {_digest(path, digests): path for path, _ in user.adapt}
        for path, _ in user.test:
            twin = adapting.get(_digest(path, digests))
            if twin is not None:
                raise InputError(
                    f"{path} would score user {user.name!r}, and the same content adapts as "
                    f"{twin}. Nothing was run; take one of them away."
                )


def _digest(path: Path, known: dict[Path, bytes]) -> bytes:
    if path not in known:
        try:
            with path.open("rb") as file:
                known[path] = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error}. Nothing was run.") from error
    return known[path]


def data_digest(user: UserFiles) -> str:
    """Sixteen hexadecimal digits that change with any name in either part of a user's files."""
    names = [f"{path.parent.name}/{path.name}/{label}" for path, label in (*user.adapt, *user.test)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
