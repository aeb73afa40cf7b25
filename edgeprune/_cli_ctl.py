"""``edgeprune ctl``: ask and steer a running service."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from ._cli_common import Output, output_options, store_option
from ._cli_format import count, pairs, percent
from ._cli_groups import SuggestingGroup
from .runtime._home import default_root
from .service._control_client import ask, choose_socket
from .service._protocol import COMMANDS, Request

__all__ = ["ctl"]

_HELP = {
    "status": "Show what the service hears or sees, what it answered and what it learnt.",
    "pause": "Stop learning; samples are answered all the same.",
    "resume": "Learn again.",
    "rollback": "Put the profile's generation before this one in force.",
    "use": "Answer, and learn, for the profile NAME from now on.",
    "personalize": "Learn from what was gathered so far, now.",
    "stop": "End the service when the sample in hand is answered.",
}
_DONE = {
    "pause": "paused: nothing is learnt until `edgeprune ctl resume`",
    "resume": "learning",
    "personalize": "learning from what was gathered; `edgeprune ctl status` tells how it ends",
    "stop": "stopping",
}


@click.group(cls=SuggestingGroup)
@click.option("--name", help="Of the service, as `edgeprune run --name` gave it.")
@click.option(
    "--socket",
    type=click.Path(path_type=Path, readable=False),
    help="Its control socket instead.",
)
@store_option
@click.pass_context
def ctl(context: click.Context, name: str | None, socket: Path | None, store: Path | None) -> None:
    """Ask and steer a running service.

    Without --name and --socket the only one that runs is meant.
    """
    if name is not None and socket is not None:
        raise click.UsageError("--name and --socket exclude each other.")
    context.obj = (name, socket, store)


def _ask(context: click.Context, request: Request, output: Output) -> None:
    name, socket, store = context.obj
    root = default_root().parent if store is None else store.expanduser()
    path = choose_socket(root, name) if socket is None else socket
    status = ask(path, request)
    output.result(status, _text(request, status))


def _text(request: Request, status: dict[str, Any]) -> str:
    if request.command == "status":
        return pairs(_rows(status))
    service = status["service"]
    using = f"profile {service['profile']}, generation {service['generation']} is in force"
    return _DONE.get(request.command, using)


def _rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    heard, service = status["input"], status["service"]
    learning, latency = service["learning"], service["latency_ms"]
    answered = status["answered"]
    teaching = min(heard["teaching"], answered)  # the sample in hand is not answered yet
    uptime = timedelta(seconds=round(status["uptime_s"]))
    opened = f", opened {count(heard['connections'])} times" if heard["connections"] > 1 else ""
    lost = [f"{heard['lost_s']:g} s of sound lost"] if heard["lost_s"] else []
    lost += [f"{count(heard['passed_over'])} pictures passed over"] if heard["passed_over"] else []
    return [
        ("service", f"{status['name']} (process {status['pid']}), running for {uptime}"),
        ("source", f"{heard['kind']} {heard['source']}{opened}"),
        ("trouble", ", ".join(heard["troubles"]) or "none"),
        ("answered", f"{count(answered)}, {count(teaching)} of which teach"),
        ("dropped", _reasons(heard["dropped"])),
        ("ignored", _seconds(heard["ignored_s"])),
        ("lost", ", ".join(lost) or "nothing"),
        ("profile", f"{service['profile']}, generation {service['generation']}"),
        ("network", service["state"]),
        ("learning", f"{learning['state']}, {_waiting(learning)}"),
        ("drift", _drift(service["drift"])),
        ("ever", _reasons(service["counts"])),
        ("inference", f"median {latency['median']} ms, p99 {latency['p99']} ms"),
    ]


def _waiting(learning: dict[str, Any]) -> str:
    if learning["step"] is not None:
        return f"{learning['step']}, {percent(learning['share'] or 0.0)}"
    return f"{count(learning['waiting'])} of {count(learning['next_at'])} samples gathered"


def _drift(watched: dict[str, Any] | None) -> str:
    """How far each figure is on its way to an alarm."""
    if watched is None:
        return "nothing was learnt yet to compare with"
    shares = [
        f"{name} {percent(share)}"
        for name, share in watched.items()
        if isinstance(share, float | int) and not isinstance(share, bool)
    ]
    return ", ".join(shares) + (" of what is an alarm" if shares else "watched")


def _reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count(many)} {reason}" for reason, many in reasons.items()) or "none"


def _seconds(reasons: dict[str, float]) -> str:
    return ", ".join(f"{took:.1f} s {reason}" for reason, took in reasons.items()) or "nothing"


def _add(command: str) -> None:
    @output_options
    @click.pass_context
    def asked(context: click.Context, *, output: Output, profile: str | None = None) -> None:
        _ask(context, Request(command, profile), output)

    callback = click.argument("profile", metavar="NAME")(asked) if command == "use" else asked
    ctl.command(command, help=_HELP[command])(callback)


for _command in COMMANDS:
    _add(_command)
