"""What the service knows of one user: counts, samples that wait, what drift is measured against."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._drift import DriftMonitor, DriftReference
from ._reservoir import Reservoir
from ._running_prior import RunningPrior
from ._settings import ServiceSettings

__all__ = ["STATE_FORMAT", "Counts", "User"]

STATE_FORMAT = 1
_HOUR_S = 3600.0
_REPLACED_HOURS = 1.0


@dataclass
class Counts:
    """What happened to a user so far, over all runs of the service."""

    samples: int = 0
    taught: int = 0
    watched: int = 0
    personalizations: int = 0
    refusals: int = 0
    failures: int = 0
    drifts: int = 0
    starts: int = 0

    def to_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Counts:
        """Those that `to_dict` gave.

        Raises:
            ValueError: one is missing or no count.
        """
        names = tuple(cls.__dataclass_fields__)
        values = {name: fields.get(name) for name in names}
        if any(not isinstance(v, int) or isinstance(v, bool) or v < 0 for v in values.values()):
            raise ValueError(f"counts must be whole numbers: {', '.join(names)}")
        return cls(**{name: int(str(value)) for name, value in values.items()})


@dataclass
class User:
    """One profile in the service.

    Attributes:
        name: of the profile.
        settings: of the service.
        counts: so far.
        reservoir: samples that wait to be learnt from.
        monitor: watches for drift; None until something was learnt.
        running: which classes turn up since drift was noticed; None where nothing has been learnt
            or no drift was noticed since.
        learn_at: how many samples must wait before the next personalisation.
        learned_at_s: when something was last learnt, seconds since the epoch; 0 for never.
        fresh: samples taken in since then.
    """

    name: str
    settings: ServiceSettings
    counts: Counts = field(default_factory=Counts)
    monitor: DriftMonitor | None = None
    running: RunningPrior | None = None
    learn_at: int = 0
    learned_at_s: float = 0.0
    fresh: int = 0

    def __post_init__(self) -> None:
        self.learn_at = self.learn_at or self.settings.learn_after
        self.reservoir = Reservoir(
            budget_bytes=self.settings.memory_mb * 1_000_000,
            most=self.settings.personalize.max_samples,
            horizon=self.settings.horizon,
        )

    @property
    def relaxed(self) -> bool:
        """Whether drift was noticed, and nothing has been learnt since."""
        return self.running is not None

    def take_in(self, array: NDArray[np.float32], timestamp_s: float) -> None:
        """Keep a teaching sample, or let the reservoir pass it over."""
        self.counts.taught += 1
        self.fresh += self.reservoir.offer(self.counts.samples, timestamp_s, array)

    def due(self, array: NDArray[np.float32]) -> bool:
        """Whether enough waits to be learnt from: so many samples, or so many hours later.

        What was kept may all have been replaced before that: then an hour is long enough. A class
        met anew that is too rare to be drift is learnt that way.
        """
        waiting = len(self.reservoir)
        capacity = self.reservoir.capacity(array)
        if waiting < min(self.learn_at, capacity):
            return False
        if self.learn_at <= capacity:
            return True
        hours = abs(time.time() - self.learned_at_s) / _HOUR_S  # a clock may have been set back
        wanted = self.settings.relearn_hours
        if self.fresh >= capacity:
            return hours >= min(wanted, _REPLACED_HOURS)
        return hours >= wanted and self.fresh >= min(self.settings.learn_after, capacity)

    def learned(self, samples: int, reference: DriftReference | None) -> None:
        """Something was learnt from so many samples; the next time after more."""
        self.counts.personalizations += 1
        self.running = None
        self.monitor = None if reference is None else DriftMonitor(reference)
        self.postpone(samples)

    def postpone(self, samples: int) -> None:
        """Try again when so many times as many samples are there, or after hours."""
        self.fresh = 0
        self.learned_at_s = time.time()
        self.learn_at = int(np.ceil(samples * self.settings.relearn_growth))

    def respect(self, samples: int) -> None:
        """The profile was learnt elsewhere, from so many samples: do not replace it after fewer."""
        self.learn_at = max(self.learn_at, min(samples, self.settings.personalize.max_samples))

    def start_over(self, *, keep_from: int | None = None) -> None:
        """Forget the samples, or those before one; learn again when enough new ones are there."""
        self.reservoir.forget(before=keep_from)
        self.monitor = self.running = None
        self.fresh = len(self.reservoir)
        self.learn_at = self.settings.learn_after

    def relax(self) -> None:
        """Something else is seen: keep what was seen since the change, and forget the rest."""
        monitor = self.monitor
        assert monitor is not None
        changed, cause = monitor.changed, monitor.cause
        # The same camera sees other classes: what it puts on all logits is known already.
        known = monitor.reference.model.bias
        bias = known if cause == "evidence" else np.zeros_like(known)
        self.start_over(keep_from=changed[0].number if changed else None)
        self.counts.drifts += 1
        self.running = RunningPrior(bias, [seen.logits for seen in changed])

    def to_dict(self) -> dict[str, Any]:
        """What is to be known after a restart: numbers, no content."""
        return {
            "format": STATE_FORMAT,
            "counts": self.counts.to_dict(),
            "relaxed": None if self.running is None else self.running.bias.tolist(),
            "learn_at": self.learn_at,
            "learned_at_s": self.learned_at_s,
            "drift": None if self.monitor is None else self.monitor.to_dict(),
        }

    def restore(self, fields: dict[str, Any], classes: int) -> None:
        """Take over what `to_dict` gave, for a network of so many classes.

        Raises:
            ValueError, KeyError, TypeError: it is not that; nothing was taken over.
        """
        if fields["format"] != STATE_FORMAT:
            raise ValueError(f"its format is {fields['format']!r}, not {STATE_FORMAT}")
        counts = Counts.from_dict(fields["counts"])
        drift = fields["drift"]
        monitor = None if drift is None else DriftMonitor.from_dict(drift)
        learn_at, learned_at_s = int(fields["learn_at"]), float(fields["learned_at_s"])
        bias = None if fields["relaxed"] is None else np.array(fields["relaxed"], np.float64)
        if learn_at < 1 or not np.isfinite(learned_at_s):
            raise ValueError("its figures are out of range")
        learnt = None if monitor is None else monitor.reference.model.bias
        if any(known is not None and known.shape != (classes,) for known in (bias, learnt)):
            raise ValueError(f"it is not of a network of {classes} classes")
        self.counts, self.monitor = counts, monitor
        self.running = None if bias is None else RunningPrior(bias)
        self.learn_at, self.learned_at_s = learn_at, learned_at_s
