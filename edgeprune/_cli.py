"""The command ``edgeprune``: its commands, its exit codes, what it says of errors."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from . import __version__
from ._cli_common import CliError
from ._cli_groups import LazyGroup

__all__ = ["cli", "main"]

_DEBUG = "EDGEPRUNE_DEBUG"
_INTERRUPTED = 130

# Name, and the short help that `edgeprune --help` shows without importing the command.
_COMMANDS = {
    "demo": "Personalise the bundled speech model, with everything it needs built in.",
    "export": "Turn a trained network, PyTorch or ONNX, into a model that can be personalised.",
    "inspect": "Show what of a model can be pruned, what cannot, and why.",
    "personalize": "Fit a model to a folder of unlabelled samples.",
    "predict": "Say what is in files.",
    "evaluate": "Score the network as trained and as personalised on labelled samples.",
    "compact": "Write a model without the units that its profile masks, and time it.",
    "verify": "Check a model against its source, and masked against compacted.",
    "bench": "Measure what this machine gains and pays, and compare two such runs.",
    "run": "Watch or listen all day: answer every sample, and learn in the background.",
    "ctl": "Ask and steer a running service.",
    "devices": "List and test the microphones and cameras of this computer.",
    "profiles": "List, show, activate, roll back, forget or export profiles.",
}

_EPILOG = f"""\b
Exit codes:
  0    done
  1    error; the message says what was left unchanged
  2    wrong usage
  3    the guard refused the outcome; nothing was changed
  4    a device is not available
  130  interrupted with Ctrl-C
  141  whoever read the output went away

Results go to stdout, progress and notes to stderr. {_DEBUG}=1 shows tracebacks.
"""


class _OutputGone(click.ClickException):
    """Whoever read our output went away, as `head` does: there is nobody to say it to."""

    exit_code = 141

    def __init__(self) -> None:
        super().__init__("")

    def show(self, file: Any = None) -> None:
        # Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Cli(LazyGroup):
    """Turns errors into messages."""

    modules = "_cli_"
    short_help_of = _COMMANDS

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except BrokenPipeError as error:
            raise _OutputGone from error  # here, because click would exit with 1
        except Exception as error:
            if os.environ.get(_DEBUG) == "1":
                raise
            raise _for_the_user(error) from error


def _for_the_user(error: Exception) -> CliError:
    from .devices import DeviceError
    from .runtime.errors import EdgepruneError

    if isinstance(error, EdgepruneError | DeviceError):
        return CliError(str(error), error.exit_code)
    kind, text = type(error).__name__, " ".join(str(error).split())
    return CliError(
        f"unexpected {kind}: {text} (a bug: please report it with the output of the same command "
        f"under {_DEBUG}=1)"
    )


@click.command(
    cls=_Cli,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="edgeprune")
def cli() -> None:
    """Personalise a trained network on the device: no labels, forward passes only.

    Units that this user does not need are masked, and what remains is repaired. The original
    weights stay, so every step can be undone bit for bit.
    """


def main() -> None:
    """Run the command line of this process, and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding lacks must not end a command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _run() -> int:
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nedgeprune: interrupted; what was in force still is.", err=True)
        return _INTERRUPTED
    except BrokenPipeError:
        _OutputGone().show()
        return _OutputGone.exit_code
