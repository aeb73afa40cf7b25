"""``edgeprune run``: the live service as a process."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from signal import SIGINT, Signals
from typing import Any, TypeVar

import click

from ._cli_common import FloatRange, Output, model_argument, output_options, store_option
from ._sources import model_preprocess
from .devices import DeviceEvent
from .runtime._home import default_root
from .runtime.artifact import Artifact
from .runtime.errors import InputError
from .runtime.settings import Settings
from .service import Service, ServiceEvent, ServiceSettings
from .service._control import ControlServer
from .service._inputs import InputOptions
from .service._lines import LineWriter, event_line
from .service._live_run import Limits, LiveRun
from .service._notify import Notifier
from .service._open_input import open_input
from .service._places import ProfileLock, check_length, service_name, socket_path
from .service._signals import stop_on_signals

__all__ = ["run"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_INTERRUPTED = 130
_MOST_POSTED = 1000

# In the order of --help: fields of ServiceSettings, then of Settings.
_HELP = {
    "top": "How many of the likeliest classes a result names.",
    "learn": "Learn from what is heard or seen, or answer only.",
    "learn_after": "Teaching samples before the first personalisation, and after a drift.",
    "drift": "Watch for a change of what is seen, and relax towards the network as trained.",
    "memory_mb": "Most memory for samples that wait to be learnt from, in MB.",
    "save_every_s": "How often the counts are written to disk, in seconds.",
    "threads": "Threads of one operator of inference; one processor is left free, if not given.",
}
_PERSONALIZE_HELP = {
    "strength": "light: masks, gains and shifts, kilobytes; deep: also re-fitted weights.",
    "sparsity": "Share of the hidden units to mask; as far as the guard allows, if not given.",
    "min_agreement": "Judge by this least agreement with the unpruned network instead; 0: never.",
}


def settings_options(command: _Command) -> _Command:
    """Add an option for what may be chosen about the service and its personalisations."""
    for settings, help_of in ((Settings, _PERSONALIZE_HELP), (ServiceSettings, _HELP)):
        known = {field.name: field for field in fields(settings)}
        for name in reversed(help_of):
            default = known[name].default
            assert default is not MISSING
            command = _option(name, default, help_of[name])(command)
    return command


def _option(name: str, default: Any, text: str) -> Callable[[_Command], _Command]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(default, bool):
        return click.option(f"{flag}/--no-{flag[2:]}", default=default, help=text)
    kinds: dict[str, Any] = {
        "sparsity": float,
        "min_agreement": float,
        "threads": int,
        "strength": click.Choice(["light", "deep"]),
    }
    shown = default is not None
    kind = kinds.get(name, type(default))
    return click.option(flag, type=kind, default=default, show_default=shown, help=text)


@click.command()
@model_argument
@click.option(
    "--source",
    required=True,
    help="mic, mic:NAME, camera, camera:NAME, http://…, rtsp://…, a file, or a folder.",
)
@click.option("--profile", default="default", show_default=True, help="Whom it learns for.")
@click.option("--events", is_flag=True, help="Print events as JSON lines, too.")
@click.option("--gate/--no-gate", default=True, help="Sound: only what is audible, or all of it.")
@click.option("--thin/--no-thin", default=True, help="Pictures: only new ones teach, or all.")
@click.option("--voice", is_flag=True, help="Sound: only voices (pip install silero-vad).")
@click.option(
    "--pace",
    type=click.Choice(["realtime", "fast"]),
    default="realtime",
    show_default=True,
    help="How fast files and folders are played.",
)
@click.option("--wait", is_flag=True, help="Wait for a device that is not there yet.")
@click.option(
    "--stall-after",
    type=FloatRange(min=0.1),
    metavar="SECONDS",
    help="A device that is silent for so long is opened again. Default: 1.5.",
)
@click.option("--max-samples", type=click.IntRange(min=1), help="End after so many answers.")
@click.option("--seconds", type=FloatRange(min=0.0), help="End after so many seconds.")
@click.option("--name", help="Of the service, for `edgeprune ctl`. Default: that of the model.")
@click.option("--socket", type=click.Path(path_type=Path), help="Control socket instead of NAME's.")
@click.option("--no-control", is_flag=True, help="No control socket.")
@settings_options
@store_option
@output_options
def run(*, output: Output, **options: Any) -> int:
    """Watch or listen all day, answer every sample, and learn from it in the background.

    Answers are lines of JSON on stdout, one a sample; what happens besides is told on stderr.
    Nothing that was heard or seen is ever written to disk. `edgeprune ctl` asks and steers the
    running service. SIGTERM ends it after the sample in hand with exit code 0, Ctrl-C with 130; 4
    means that the device was not available at the start.
    """
    return _Job(output, options).run()


@dataclass
class _Job:
    """A run of the command: what was asked for, and what came of it."""

    output: Output
    options: dict[str, Any]

    def __post_init__(self) -> None:
        self._notes = LineWriter(sys.stderr)
        # A reader that hangs must not make this the memory's end: the oldest go.
        self._posted: deque[dict[str, Any]] = deque(maxlen=_MOST_POSTED)
        self._live: LiveRun | None = None
        self._signal: Signals | None = None
        self._failed: str | None = None

    def run(self) -> int:
        """Run until something ends it; return the exit code."""
        settings = _settings(self.options)
        model: Path = self.options["model"]
        artifact = Artifact.open(model)
        preprocess = model_preprocess(artifact)
        notifier = Notifier.from_environment()
        with ExitStack() as opened, _told(self._thread_failed), stop_on_signals(self._stop):
            opened.callback(notifier.close)
            lock = opened.enter_context(ProfileLock(self._store, artifact.info.model_id))
            lock.move_to(self.options["profile"])
            service = Service(
                model,
                profile=self.options["profile"],
                settings=settings,
                store=self.options["store"],
                on_event=self._event,
            )
            opened.callback(service.close)
            notifier.status(f"opening {self.options['source']}")
            source = opened.enter_context(
                open_input(self.options["source"], preprocess, self._input_options, self._event)
            )
            self._live = live = LiveRun(
                self._name,
                service,
                source,
                LineWriter(sys.stdout),
                notifier,
                use=lambda profile: _use(lock, service, profile),
                limits=Limits(self.options["max_samples"], self.options["seconds"]),
                posted=self._posted,
            )
            if not self.options["no_control"]:
                opened.callback(ControlServer(self._socket, live.handle).close)
            if self._signal is not None:  # while all this was opened
                live.stop()
            live.run()
        live.write_last()
        return self._end(live)

    @property
    def _store(self) -> Path:
        store: Path | None = self.options["store"]
        return default_root().parent if store is None else store.expanduser()

    @property
    def _name(self) -> str:
        return self.options["name"] or service_name(self.options["model"].stem)

    @property
    def _socket(self) -> Path:
        given: Path | None = self.options["socket"]
        return socket_path(self._name, self._store) if given is None else check_length(given)

    @property
    def _input_options(self) -> InputOptions:
        chosen = {name: self.options[name] for name in ("gate", "thin", "voice", "pace", "wait")}
        return InputOptions(stall_after_s=self.options["stall_after"], **chosen)

    def _end(self, live: LiveRun) -> int:
        if self._failed is not None:
            raise click.ClickException(self._failed)
        answered = live.answered
        self.output.note(f"edgeprune: {answered} sample{'s' * (answered != 1)} answered")
        if self._signal == SIGINT:
            self.output.note("edgeprune: interrupted; what was learnt is saved.")
            return _INTERRUPTED
        return 0

    def _stop(self, signal: Signals) -> None:
        self._signal = self._signal or signal
        if self._live is not None:
            self._live.stop()

    def _event(self, event: DeviceEvent | ServiceEvent) -> None:
        if not self.output.quiet:
            self._notes.say(f"edgeprune: {event.message}")
        if self.options["events"]:
            self._posted.append(event_line(event))

    def _thread_failed(self, text: str) -> None:
        self._failed = text
        if self._live is not None:
            self._live.stop()


def _settings(options: dict[str, Any]) -> ServiceSettings:
    try:
        personalize = Settings(**{name: options[name] for name in _PERSONALIZE_HELP}, threads=1)
        return ServiceSettings(personalize=personalize, **{name: options[name] for name in _HELP})
    except InputError as error:
        raise click.UsageError(str(error)) from error


def _use(lock: ProfileLock, service: Service, profile: str) -> None:
    """Switch to another profile, which no other service may have."""
    with lock.moving_to(profile):
        service.use(profile)


@contextlib.contextmanager
def _told(tell: Callable[[str], None]) -> Iterator[None]:
    """A thread that dies ends the service, with one sentence: it would be half alive."""

    def hook(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else "a thread"
        text = " ".join(str(args.exc_value).split())
        tell(f"{name}: unexpected {args.exc_type.__name__}: {text} (a bug: please report it)")

    before, threading.excepthook = threading.excepthook, hook
    try:
        yield
    finally:
        threading.excepthook = before
