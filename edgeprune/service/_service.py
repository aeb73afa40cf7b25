"""The live service: answers every sample, learns in the background, and notices drift."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._labels import class_name
from ..devices._closing import Closing
from ..runtime.artifact import Artifact
from ..runtime.errors import EdgepruneError, InputError, NotEnoughSamples, ProfileNotFound
from ..runtime.session import Session, default_threads
from ..runtime.store import DENSE, ProfileStore
from ._drift import DriftMonitor
from ._events import EventKind, OnEvent, ServiceEvent, tell_nobody
from ._job import JobRequest, JobResult
from ._keeper import Keeper
from ._latency import Latency
from ._learner import Learner, Learning
from ._sample import LiveResult, LiveSample
from ._serving import Serving, State
from ._settings import ServiceSettings
from ._user import User

__all__ = ["LiveResult", "Service"]

_FEWEST = 10  # what a personalisation needs
_FADE = 0.15  # what classes learnt before are worth, as a share of the samples learnt from


class Service(Closing):
    """A network that answers every sample and learns its user as it goes.

    `process` answers on the caller's thread and never waits for learning. Learning happens in a
    process of its own; its outcome is swapped in between two samples. All other methods may be
    called from any thread.

    Three lines to see it::

        with Service(Path("digits.onnx"), profile="anna") as service:
            for sample in samples:
                print(service.process(sample).label)

    Args:
        model: ``NAME.onnx``, a classifier with one float32 input.
        profile: the user: what is learnt is saved as generations of this profile.
        settings: how to learn and watch; None for the defaults.
        store: the folder that ``EDGEPRUNE_HOME`` or ``--store`` names; None for the user's own.
        on_event: told what happens; see `ServiceEvent`.

    Raises:
        ArtifactError: the files are no artifact, or damaged.
        InputError: it is no classifier of one input.
        ProfileError: the profile is damaged, or the store cannot be used.
    """

    def __init__(
        self,
        model: Path,
        *,
        profile: str,
        settings: ServiceSettings | None = None,
        store: Path | None = None,
        on_event: Callable[[ServiceEvent], None] | None = None,
    ) -> None:
        self.settings = settings or ServiceSettings()
        self._artifact = Artifact.open(model)
        self._artifact.info.require_classifier("live service")
        root = None if store is None else Path(store).expanduser() / "profiles"
        self._store = ProfileStore(root)
        self._on_event: OnEvent = on_event or tell_nobody
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._paused = False
        self._latency = Latency()
        self._unusable = 0
        self._dense = Session(self._artifact, threads=self._threads)
        self._learner = Learner(self._finish, self.settings.worker_timeout_s)
        self._keeper = Keeper(
            self._store, self._artifact.info, self.settings, self._lock, self._emit
        )
        self._user = self._keeper.user(profile)
        self._serving = self._serve(self._user)
        self._keeper.start(self._forgotten, self._follow)

    # Answering

    def process(self, sample: LiveSample) -> LiveResult:
        """Answer a sample now, and learn from it later.

        Raises:
            InputError: its shape or type does not fit, or values are not finite.
        """
        result, serving, logits = self._answer(sample)
        self._observe(sample, serving, logits)
        return result

    def run(self, samples: Iterable[LiveSample], on_result: Callable[[LiveResult], None]) -> None:
        """Answer samples until they end or `stop` is called; each answer goes out at once.

        A sample that is no input of this model is told as an event, counted, and passed over.
        """
        for sample in samples:
            self._answer_aloud(sample, on_result)
            if self._stopping.is_set():
                return

    def _answer_aloud(self, sample: LiveSample, on_result: Callable[[LiveResult], None]) -> None:
        """A method of its own: between two samples nothing holds on to what answered the last."""
        try:
            result, serving, logits = self._answer(sample)
        except InputError as error:
            self._pass_over(error)
        else:
            on_result(result)
            self._observe(sample, serving, logits)

    def _answer(self, sample: LiveSample) -> tuple[LiveResult, Serving, NDArray[np.floating]]:
        serving = self._serving
        started = time.perf_counter()
        logits = serving.logits(sample.array)
        probabilities = serving.probabilities(logits)
        latency_ms = (time.perf_counter() - started) * 1e3
        self._latency.add(latency_ms)
        return self._result(sample, serving, probabilities, latency_ms), serving, logits

    def _result(
        self,
        sample: LiveSample,
        serving: Serving,
        probabilities: NDArray[np.float64],
        latency_ms: float,
    ) -> LiveResult:
        order = np.argsort(-probabilities, kind="stable")[: self.settings.top].tolist()
        top = tuple((class_name(self._artifact.info, i), float(probabilities[i])) for i in order)
        return LiveResult(
            sequence=sample.sequence,
            timestamp_s=sample.timestamp_s,
            label=top[0][0],
            index=order[0],
            confidence=top[0][1],
            top=top,
            profile=serving.profile,
            generation=serving.generation,
            latency_ms=latency_ms,
            state=serving.state,
        )

    def _pass_over(self, error: InputError) -> None:
        self._unusable += 1
        if self._unusable == 1:
            self._emit("unusable", f"a sample was passed over: {error}", self._user.name)

    # Learning

    def _observe(self, sample: LiveSample, serving: Serving, logits: NDArray[np.floating]) -> None:
        with self._lock:
            user = self._user
            if self._stopping.is_set() or serving.profile != user.name:
                return
            user.counts.samples += 1
            if not sample.teaches:
                return
            self._watch(user, sample, serving, logits)
            if not self.settings.learn or self._paused:
                return
            user.take_in(sample.array, sample.timestamp_s)
            self._keeper.make_room(user)
            if not self._learner.busy and user.due(sample.array):
                self._learn(user)

    def _watch(
        self, user: User, sample: LiveSample, serving: Serving, logits: NDArray[np.floating]
    ) -> None:
        """Look for drift beside a personalised network; follow the classes after one."""
        if user.running is not None:
            if serving.session is self._dense and user.running.add(logits):
                self._serving = self._as_trained(user)
            return
        monitor, number = user.monitor, user.counts.samples
        if monitor is None or not self.settings.drift or serving.session is self._dense:
            return
        if number % self.settings.watch_every and not monitor.suspicious:
            return
        user.counts.watched += 1
        dense = self._artifact.info.logits(self._dense.run(sample.array[None])[0])
        if monitor.update(number, dense):
            self._relax(user, monitor)

    def _relax(self, user: User, monitor: DriftMonitor) -> None:
        self._abandon(user)
        details = monitor.status() | {"cause": monitor.cause, "since": len(monitor.changed)}
        user.relax()
        self._serving = self._as_trained(user)
        message = f"what is seen has changed ({monitor.cause}): back to the network as trained."
        self._emit("drift", message, user.name, **details)
        self._keeper.save_soon()

    def _learn(self, user: User) -> None:
        request = JobRequest(
            self._artifact.path,
            self._store.root,
            user.name,
            self.settings.personalize,
            _FADE,
            self.settings.worker_nice,
        )
        kept = user.reservoir.in_order()
        self._learner.start(request, kept, replaces=self._in_force(user.name))
        self._emit(
            "learning", f"personalising from {len(kept)} samples.", user.name, samples=len(kept)
        )

    def _finish(self, learning: Learning, result: JobResult) -> None:
        """Take over what the worker made; on the learner's thread."""
        serving = None
        user = self._keeper.user(learning.profile)
        if self._keeper.is_forgotten(user):
            self._forgotten(user)
            return
        if result.outcome == "saved" and result.generation is not None:
            try:
                serving = self._personalized(user, result.generation)
            except EdgepruneError as error:
                result = JobResult("failed", str(error))
        with self._lock:
            if learning.cancelled:
                return
            # Before anybody hears of it: who then pauses or ends this must not take it back.
            self._learner.settle(learning)
            if serving is not None and self._user is user:
                self._serving = serving
            self._settle(user, learning, result)
        self._keeper.save_soon()

    def _settle(self, user: User, learning: Learning, result: JobResult) -> None:
        kind: EventKind = "personalized"
        if result.outcome == "saved":
            user.learned(learning.samples, result.drift_reference())
        elif result.outcome in ("refused", "too-few"):
            kind = "refused"
            user.counts.refusals += 1
            user.postpone(learning.samples)
        else:
            kind = "failed"
            user.counts.failures += 1
            user.postpone(learning.samples)
        details = {"samples": learning.samples, "generation": result.generation}
        self._emit(kind, result.message, user.name, **details, report=result.report)

    # Control

    def status(self) -> dict[str, Any]:
        """How things stand, as JSON values."""
        with self._lock:
            user, serving, learning = self._user, self._serving, self._learner.current
            return {
                "model": str(self._artifact.path),
                "profile": user.name,
                "state": serving.state,
                "generation": serving.generation,
                "counts": user.counts.to_dict() | {"unusable": self._unusable},
                "learning": {
                    "state": self._learning_state(),
                    "waiting": len(user.reservoir),
                    "next_at": user.learn_at,
                    "memory_mb": round(user.reservoir.size_bytes / 1e6, 3),
                    "profile": None if learning is None else learning.profile,
                    "step": None if learning is None else learning.job.step,
                    "share": None if learning is None else learning.job.share,
                    "worker_pid": None if learning is None else learning.job.pid,
                },
                "drift": None if user.monitor is None else user.monitor.status(),
                "latency_ms": self._latency.to_dict(),
            }

    def _learning_state(self) -> str:
        if not self.settings.learn:
            return "off"
        if self._paused:
            return "paused"
        return "learning" if self._learner.busy else "waiting"

    def pause(self) -> None:
        """Learn nothing until `resume`; a personalisation under way is ended. Answers go on."""
        with self._lock:
            self._paused = True
            self._abandon()
            self._emit("paused", "learning is paused.", self._user.name)

    def resume(self) -> None:
        """Learn again."""
        with self._lock:
            self._paused = False
            self._emit("resumed", "learning goes on.", self._user.name)

    def use(self, profile: str) -> None:
        """Switch to another user, who is made if there is none of that name.

        Raises:
            ProfileError: the name is not allowed, or the profile is damaged; the user stays.
        """
        user = self._keeper.user(profile)
        serving = self._serve(user)
        with self._lock:
            self._user, self._serving = user, serving
            self._keeper.touch(user)
            self._emit("switched", f"the user is {profile}.", profile)
        self._keeper.save_soon()

    def rollback(self) -> None:
        """Go back one generation, and forget the samples that wait: learning begins anew.

        Raises:
            ProfileNotFound: nothing was ever learnt.
        """
        with self._lock:
            user = self._user
            if self._in_force(user.name) == DENSE:
                raise ProfileNotFound(
                    f"the network as trained answers for {user.name}: there is nothing to go back "
                    "to. Nothing was changed."
                )
            self._abandon(user)
            generation = self._store.rollback(self._artifact.info.model_id, user.name)
            user.start_over()
            self._serving = self._serve(user)
            self._emit(
                "rolled-back", f"generation {generation} is in force.", user.name,
                generation=generation,
            )  # fmt: skip
        self._keeper.save_soon()

    def personalize_now(self) -> None:
        """Begin a personalisation without waiting for more samples; it returns at once.

        Raises:
            NotEnoughSamples: fewer than ten wait; nothing was begun.
        """
        with self._lock:
            if self._learner.busy:
                return
            waiting = len(self._user.reservoir)
            if waiting < _FEWEST:
                raise NotEnoughSamples(
                    f"{waiting} samples wait to be learnt from; personalisation needs at least "
                    f"{_FEWEST}. Nothing was begun; ask again later."
                )
            self._learn(self._user)

    def stop(self) -> None:
        """Let `run` return after the sample in hand. May be called from a signal handler."""
        self._stopping.set()

    def close(self) -> None:
        """Stop, end a personalisation under way, and save the counts."""
        self.stop()
        with self._lock:
            learning = self._learner.current
            self._abandon()
        if learning is not None:
            message = "the personalisation under way was given up: the service ends."
            self._emit("given-up", message, learning.profile, samples=learning.samples)
        self._learner.close()
        self._keeper.close()

    # Serving

    @property
    def _threads(self) -> int:
        return self.settings.threads or max(1, default_threads() - 1)

    def _serve(self, user: User) -> Serving:
        """What answers for a user: the generation in force, or the network as trained."""
        # Strict: with a damaged pointer what was learnt would silently not be used.
        current = self._store.current(self._artifact.info.model_id, user.name, strict=True)
        if user.relaxed or current == DENSE:
            return self._as_trained(user)
        serving = self._personalized(user, current)
        if user.monitor is None:
            user.respect(_learnt_from(serving))
        return serving

    def _in_force(self, profile: str) -> int:
        return self._store.current(self._artifact.info.model_id, profile)

    def _as_trained(self, user: User) -> Serving:
        shift = None if user.running is None else user.running.shift
        state: State = "relaxed" if user.relaxed else "dense"
        return Serving(self._dense, user.name, DENSE, state, shift)

    def _personalized(self, user: User, generation: int) -> Serving:
        """Build the session of a generation; what answers meanwhile goes on answering."""
        profile = self._store.load(user.name, self._artifact, generation)
        session = Session(self._artifact, profile, threads=self._threads)
        return Serving(session, user.name, generation, "personalized")

    def _abandon(self, user: User | None = None) -> None:
        """End a personalisation, of this user only if one is given.

        What it may have saved in its last moment is taken back.
        """
        learning = self._learner.current
        if learning is None or (user is not None and learning.profile != user.name):
            return
        self._learner.cancel()
        if self._in_force(learning.profile) != learning.replaces:
            model_id = self._artifact.info.model_id
            self._store.rollback(model_id, learning.profile, to=learning.replaces)

    def _forgotten(self, user: User) -> None:
        """The user's profile was erased by another program: drop all that is known here, too."""
        with self._lock:
            learning = self._learner.current
            if learning is not None and learning.profile == user.name:
                self._learner.cancel()
                with contextlib.suppress(ProfileNotFound):  # what it saved just after the erasure
                    self._store.forget(self._artifact.info.model_id, user.name)
            fresh = self._keeper.anew(user)
            if self._user is user:
                self._user, self._serving = fresh, self._as_trained(fresh)
            self._emit("forgotten", "the profile was erased; counts start anew.", user.name)

    def _follow(self, user: User) -> None:
        """Another program may have put another generation in force: that one answers, then.

        One that cannot be used is left alone; what answers goes on answering.
        """
        if not self._replaced(user):
            return
        with contextlib.suppress(EdgepruneError):
            serving = self._serve(user)
            with self._lock:
                if not self._replaced(user) or self._in_force(user.name) != serving.generation:
                    return
                user.start_over()
                user.respect(_learnt_from(serving))
                self._serving = serving
                message = f"generation {serving.generation} is in force: another program says so."
                self._emit("replaced", message, user.name, generation=serving.generation)

    def _replaced(self, user: User) -> bool:
        """Whether what answers for a user is not what the store says, and nobody is about it."""
        with self._lock:
            learning = self._learner.current
            if learning is not None and learning.profile == user.name:
                return False
            if user.relaxed or self._user is not user:
                return False
            return self._serving.generation != self._in_force(user.name)

    def _emit(self, kind: EventKind, message: str, profile: str, **details: Any) -> None:
        self._on_event(ServiceEvent(kind, message, profile, details))


def _learnt_from(serving: Serving) -> int:
    """How many samples the profile in use was learnt from; 0 if it does not say."""
    profile = serving.session.profile
    seen = None if profile is None else profile.report.get("samples_seen")
    return seen if isinstance(seen, int) else 0
