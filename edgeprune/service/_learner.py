"""At most one personalisation at a time, on a thread that waits for its process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ._job import Job, JobRequest, JobResult
from ._reservoir import Kept

__all__ = ["Learner", "Learning"]


@dataclass(frozen=True, eq=False)
class Learning:
    """A personalisation under way; ``replaces`` is the generation that was in force before."""

    job: Job
    profile: str
    replaces: int
    samples: int

    @property
    def cancelled(self) -> bool:
        """Whether its outcome is not wanted any more."""
        return self.job.cancelled


class Learner:
    """Runs personalisations, one after the other.

    Args:
        on_done: called on the learner's thread with each that was not cancelled.
        timeout_s: how long one may take.
    """

    def __init__(self, on_done: Callable[[Learning, JobResult], None], timeout_s: float) -> None:
        self._on_done = on_done
        self._timeout_s = timeout_s
        self._thread: threading.Thread | None = None
        self.current: Learning | None = None

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return self.current is not None

    def start(self, request: JobRequest, kept: Sequence[Kept], *, replaces: int) -> None:
        """Begin one; the caller has made sure that none is under way."""
        job = Job(request, kept)
        self.current = Learning(job, request.profile, replaces, len(kept))
        self._thread = threading.Thread(
            target=self._run, args=(self.current,), name="edgeprune learner", daemon=True
        )
        self._thread.start()

    def settle(self, learning: Learning) -> None:
        """Its outcome is in force: nothing of it can be ended, or taken back, any more."""
        if self.current is learning:
            self.current = None

    def cancel(self) -> Learning | None:
        """End the one under way, if any, and return it; its process is dead when this returns."""
        learning, self.current = self.current, None
        if learning is not None:
            learning.job.cancel()
        return learning

    def close(self) -> None:
        """End the one under way and wait for its thread."""
        self.cancel()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, learning: Learning) -> None:
        try:
            result = learning.job.run(self._timeout_s)
            if not learning.cancelled:
                self._on_done(learning, result)
        finally:
            self.settle(learning)
