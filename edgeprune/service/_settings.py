"""What may be chosen about the live service."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..runtime.errors import InputError
from ..runtime.settings import Settings

__all__ = ["ServiceSettings"]


@dataclass(frozen=True)
class ServiceSettings:
    """How the live service learns and watches. The defaults are meant to be left alone.

    Attributes:
        personalize: how each personalisation is done. Its threads default to one: it runs beside
            inference.
        learn: False answers only; no sample is kept.
        learn_after: teaching samples before the first personalisation, and after a drift.
        relearn_growth: the next one when so many times as many have been gathered, up to what the
            memory holds.
        relearn_hours: from then on one every so many hours, and every hour where all that was
            kept has been replaced.
        memory_mb: most memory for samples that wait to be learnt from, in MB (10⁶ bytes). A
            personalisation in progress holds them once more.
        horizon: how fast samples age: the chance that one is still kept falls to 1/e after so
            many later ones, or after as many as the memory holds if that is more.
        drift: watch for a change of what is seen.
        watch_every: the network as trained runs beside the personalised one on every so-manieth
            sample, and on each while a change is suspected.
        threads: of one operator of inference; None leaves one processor to personalisation.
        save_every_s: how often the counts are written to disk.
        worker_timeout_s: a personalisation that takes longer is ended.
        worker_nice: how far personalisation stands behind all other programs, 0 to 19. On a machine
            that is always busy otherwise it may never end at 19.
        top: how many of the likeliest classes a result names.

    Raises:
        InputError: a value is out of range; the message names it.
    """

    personalize: Settings = field(default_factory=Settings)
    learn: bool = True
    learn_after: int = 100
    relearn_growth: float = 2.0
    relearn_hours: float = 24.0
    memory_mb: int = 128
    horizon: int = 5000
    drift: bool = True
    watch_every: int = 4
    threads: int | None = None
    save_every_s: float = 60.0
    worker_timeout_s: float = 7200.0
    worker_nice: int = 19
    top: int = 5

    def __post_init__(self) -> None:
        checks = {
            "learn_after": (self.learn_after >= 10, "at least 10"),
            "relearn_growth": (1.0 < self.relearn_growth < math.inf, "more than 1"),
            "relearn_hours": (self.relearn_hours > 0.0, "more than 0"),
            "memory_mb": (self.memory_mb >= 1, "at least 1"),
            "horizon": (self.horizon >= 10, "at least 10"),
            "watch_every": (self.watch_every >= 1, "at least 1"),
            "threads": (self.threads is None or self.threads >= 1, "at least 1"),
            "save_every_s": (self.save_every_s > 0.0, "more than 0"),
            "worker_timeout_s": (self.worker_timeout_s > 0.0, "more than 0"),
            "worker_nice": (0 <= self.worker_nice <= 19, "0 to 19"),
            "top": (self.top >= 1, "at least 1"),
        }
        for name, (fine, wanted) in checks.items():
            if not fine:
                raise InputError(
                    f"{name} = {getattr(self, name)!r} is out of range: it must be {wanted}. "
                    "Nothing was changed."
                )
