"""Streams that are not a fair picture of their user: what a guard is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Literal, TypeVar, get_args

from ..runtime.errors import InputError
from ._users import Labelled, UserFiles

__all__ = ["STREAMS", "StreamKind", "bent"]

StreamKind = Literal["balanced", "stays", "skewed", "one-class", "mixed"]
STREAMS: tuple[str, ...] = get_args(StreamKind)
_MOSTLY, _SELDOM = 7, 3  # of ten samples of a skewed stream
_STAY = 5  # samples in a row of one class, on average

_T = TypeVar("_T")


def bent(users: Sequence[UserFiles], kind: StreamKind) -> tuple[UserFiles, ...]:
    """The same users, who are scored on the same files and adapt to another stream.

    ``stays`` shows the same samples, each class for a while before the next, as a camera would.
    ``skewed`` is seven tenths of one class, as long as its files last; ``one-class`` that class
    alone; ``mixed`` has every second sample from the next user.

    Raises:
        InputError: there is nobody to mix in.
    """
    if kind == "balanced":
        return tuple(users)
    if kind == "stays":
        return tuple(replace(user, stay=_STAY) for user in users)
    if kind == "mixed" and len(users) < 2:
        raise InputError("a mixed stream needs two users or more. Nothing was run.")
    following = [*users[1:], users[0]]
    return tuple(
        replace(user, adapt=tuple(_adapting(user, other, kind)))
        for user, other in zip(users, following, strict=True)
    )


def _adapting(user: UserFiles, other: UserFiles, kind: StreamKind) -> list[Labelled]:
    if kind == "mixed":
        return _alternating(user.adapt, [one for one in other.adapt if one not in user.adapt])
    most = [one for one in user.adapt if one[1] == user.classes[0]]
    if kind == "one-class":
        return most
    rest = [one for one in user.adapt if one[1] != user.classes[0]]
    turns = [_turns(most, _MOSTLY), _turns(rest, _SELDOM)]
    return [*chain.from_iterable(_alternating(*turns))]


def _turns(files: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [files[start : start + size] for start in range(0, len(files), size)]


def _alternating(first: Sequence[_T], second: Sequence[_T]) -> list[_T]:
    pairs = zip_longest(first, second)
    return [one for one in chain.from_iterable(pairs) if one is not None]
