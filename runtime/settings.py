"""What a user may choose about personalisation, and what it reports back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ._plan import Scope
from .errors import InputError
from .guard import LEAST_CHANGE, GuardReport, estimated_change
from .profile import Profile, Sparsity
from .scoring import CRITERIA, Criterion

__all__ = ["Outcome", "Report", "Settings", "Tried"]

Strength = Literal["light", "deep"]
Granularity = Literal["unit", "weight"]
# Without new weights a network bears less: docs/method.md.
_SPARSITY = {"deep": 0.5, "light": 0.2}
_TO_TRY = {"deep": (0.7, 0.5, 0.3, 0.0), "light": (0.3, 0.2, 0.1, 0.0)}
_SHARE_OF_GAIN = 0.7  # at half of it development speakers lost 5 points; at 0.9 little was pruned
_LEAST_OF_SEVERAL = 0.02  # both development speakers who lost by 20 samples were below it
_NOTHING = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "sparsity": (int, float, _NOTHING),
    "ridge": (int, float),
    "faster": (int, float, _NOTHING),
    "holdout": (int, float),
    "min_agreement": (int, float, _NOTHING),
    "min_change": (int, float),
    "calibrate": (bool,),
    "repair": (bool,),
    "channel_multiple": (int,),
    "max_samples": (int,),
    "memory_mb": (int,),
    "threads": (int, _NOTHING),
    "seed": (int,),
}
_NEEDS = {
    "granularity": ", or lacks strength deep and repair, which single weights need",
    "faster": ", or lacks whole units, strength deep, repair and the allocation by damage",
}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", _NOTHING: "none"}


@dataclass(frozen=True)
class Settings:
    """How to personalise. The defaults are meant to be left alone.

    Attributes:
        sparsity: share of the units in scope (or of the weights) to prune, from 0 up to (not
            including) 1; None goes as far as the guard allows: see `sparsities`.
        strength: ``light`` changes masks, gains, shifts and the class prior (kilobytes); ``deep``
            also re-fits the weights of the pruned groups' consumers.
        granularity: ``unit`` prunes whole units, which `compact` can remove; ``weight`` single
            weights of every layer that mixes channels, which makes nothing faster or smaller in
            memory but loses less for the same share. With strength ``deep`` only; `scope`,
            `criterion`, `allocation` and `channel_multiple` play no part then.
        scope: ``hidden`` prunes units inside blocks; ``all`` the residual streams too.
        criterion: how units are scored: see `edgeprune.runtime.scoring`.
        allocation: every group gives up the same share of its units (``uniform``), or more where
            the repair can make good for them (``damage``, with strength ``deep``).
        faster: with ``damage`` and repair, prune beyond the sparsity, where time is saved at the
            least loss, until the compacted network is estimated to be so many times as fast as the
            dense one.
        normalization: re-estimate normalisation on the user's data: always, never, or where a
            label-free comparison says that it helps.
        prior: learn which classes the user meets by spreading soft labels over the user's stream
            (``graph``; with strength ``deep`` the head is re-fitted to them as well), by
            expectation maximisation (``em``), or not at all.
        calibrate: take off the logits what the stream puts on all of them, where normalisation was
            not moved and neighbours still agree after it: see `edgeprune.runtime.calibrate`.
        order: take samples that follow each other for neighbours, as far as the stream shows that
            what is met stays for a while (``auto``), or make nothing of their order (``off``):
            see `edgeprune.runtime.persistence`.
        light_repair: how strength ``light`` corrects gains and shifts: layer after layer on the
            pruned network (``walk``), or from the statistics pass alone (``one_pass``), which takes
            little longer than inference and bears less: docs/method.md has the figures.
        repair: False masks units and repairs nothing: a control for comparisons.
        channel_multiple: the number of kept units is rounded to a multiple of this.
        ridge: pull of the repair towards no change, relative to the mean variance.
        max_samples: most samples to learn from; of a longer stream an even choice is taken.
        holdout: share of the samples that only the guard sees; with ``light`` at most 32 samples.
        min_change: the estimated change of accuracy below which nothing is changed.
        min_agreement: judge by this least agreement with the dense network instead; 0 lets
            everything pass.
        memory_mb: most memory for activations kept between layers, in MB (10⁶ bytes). With ``deep``
            five sixteenths of it are for what the repair is to imitate, of which long streams and
            wide networks leave fewer positions of each sample, and then of fewer samples, and three
            eighths for the pruned network; linear algebra needs the rest.
        threads: threads of one operator; None for `default_threads`.
        seed: for the criterion ``random``.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    sparsity: float | None = None
    strength: Strength = "deep"
    granularity: Granularity = "unit"
    scope: Scope = "hidden"
    criterion: Criterion = "repair_aware"
    allocation: Literal["damage", "uniform"] = "damage"
    faster: float | None = None
    normalization: Literal["auto", "on", "off"] = "auto"
    prior: Literal["graph", "em", "off"] = "graph"
    calibrate: bool = True
    order: Literal["auto", "off"] = "auto"
    light_repair: Literal["walk", "one_pass"] = "walk"
    repair: bool = True
    channel_multiple: int = 16
    ridge: float = 0.1
    max_samples: int = 1000
    holdout: float = 0.2
    min_change: float = LEAST_CHANGE
    min_agreement: float | None = None
    memory_mb: int = 128
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        checks = {
            "sparsity": self.sparsity is None or 0.0 <= self.sparsity < 1.0,
            "strength": self.strength in ("light", "deep"),
            "granularity": self.granularity == "unit"
            or (self.granularity == "weight" and self.strength == "deep" and self.repair),
            "scope": self.scope in ("hidden", "all"),
            "criterion": self.criterion in CRITERIA,
            "faster": self.faster is None or (1.0 <= self.faster <= 100.0 and self._by_damage),
            "allocation": self.allocation in ("damage", "uniform"),
            "normalization": self.normalization in ("auto", "on", "off"),
            "prior": self.prior in ("graph", "em", "off"),
            "order": self.order in ("auto", "off"),
            "light_repair": self.light_repair in ("one_pass", "walk"),
            "channel_multiple": self.channel_multiple >= 1,
            "ridge": math.isfinite(self.ridge) and self.ridge > 0,
            "max_samples": self.max_samples >= 10,
            "holdout": 0.05 <= self.holdout <= 0.5,
            "min_change": -1.0 <= self.min_change <= 1.0,
            "min_agreement": self.min_agreement is None or 0.0 <= self.min_agreement <= 1.0,
            "memory_mb": self.memory_mb >= 1,
            "threads": self.threads is None or self.threads >= 1,
            "seed": self.seed >= 0,
        }
        wrong = [name for name, fine in checks.items() if not fine]
        if wrong:
            raise InputError(
                f"{wrong[0]} = {getattr(self, wrong[0])!r} is out of range"
                f"{_NEEDS.get(wrong[0], '')}. Nothing was changed."
            )

    @property
    def _by_damage(self) -> bool:
        """Whether units are allocated by what their loss costs, which `faster` weighs with time."""
        whole = self.granularity == "unit" and self.strength == "deep" and self.repair
        return whole and self.allocation == "damage"

    def _check_types(self) -> None:
        """A number where a number belongs: what comes from JSON or a form may be anything."""
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) != (kinds == (bool,)) or not isinstance(value, kinds):
                wanted = " or ".join(_WORDS[kind] for kind in kinds)
                raise InputError(f"{name} = {value!r} should be {wanted}. Nothing was changed.")

    @property
    def target_sparsity(self) -> float:
        """The share of units to prune; where it is left open, what is usual for the strength."""
        return _SPARSITY[self.strength] if self.sparsity is None else self.sparsity

    @property
    def sparsities(self) -> tuple[float, ...]:
        """What to try, the most first: the one that was asked for, or a coarse list."""
        return _TO_TRY[self.strength] if self.sparsity is None else (self.sparsity,)

    def objection_to(self, guard: GuardReport, sparsity: float) -> str | None:
        """Why these settings forbid an outcome, in a sentence; None if they allow it.

        Where several sparsities are tried, the highest that passes is likely to be one that the
        estimate flatters, so what is pruned has to pass by more, and to leave most of what all
        units would gain.

        Args:
            guard: the comparison.
            sparsity: of the outcome, as it was asked for.
        """
        least = self.min_change
        if self.sparsity is None and sparsity > 0:
            gain = estimated_change(guard.learnt, 0.0)
            least = max(least, _LEAST_OF_SEVERAL, _SHARE_OF_GAIN * gain)
        return guard.objection(least, self.min_agreement)


@dataclass(frozen=True)
class Tried:
    """A sparsity that was tried: what the guard estimated, and whether it allowed it."""

    sparsity: float
    score: float
    agreement: float
    allowed: bool


@dataclass(frozen=True)
class Report:
    """What personalisation did, in figures.

    Attributes:
        samples_seen: samples that the stream held.
        samples_adapted: samples that were learnt from.
        samples_held_out: samples that only the guard saw.
        strength: ``light`` or ``deep``.
        normalization: how far normalisation was moved to the user, 0 (not) to 1 (fully).
        effective_classes: how many classes the user seems to meet: the exponential of the estimated
            prior's entropy; None without a prior.
        guard: comparison with the dense network on the held-out samples.
        sparsity: what the masks remove.
        seconds: wall time.
        tried: the sparsities that were tried, in this order; the last one was allowed.
        speed: with the setting ``faster``, how many times as fast as the dense network the
            compacted one is estimated to be; less than was asked for where the groups give no more.
    """

    samples_seen: int
    samples_adapted: int
    samples_held_out: int
    strength: Strength
    normalization: float
    effective_classes: float | None
    guard: GuardReport
    sparsity: Sparsity
    seconds: float
    tried: tuple[Tried, ...]
    speed: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """A profile that is ready to be stored, and the report on it."""

    profile: Profile
    report: Report
