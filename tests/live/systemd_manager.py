"""A real systemd user manager of the tests' own, where the system's first process is another.

It runs in a control group and a mount namespace of its own, so that it can neither see nor move
any other process; only an administrator can make these.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .running import Patience

SYSTEMD = Path("/lib/systemd/systemd")
_NEEDED = ("systemctl", "unshare", "mount")
# What the first systemd of a system makes at its start, and those of users count on: the folder by
# which they know that they may run at all, and what is mounted over what a unit may not see.
_START = """\
set -e
for group in {groups}; do echo $$ > "$group/cgroup.procs"; done
exec unshare --mount sh -c '
mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/systemd/inaccessible/dir
cd /run/systemd/inaccessible
touch reg
mkfifo fifo
mknod chr c 0 0
mknod blk b 0 0
chmod 0 *
cd /
exec {systemd} --user --unit=basic.target'
"""


class SystemdManager:
    """A manager with a home of its own; `ctl` asks it, `stop` ends it and all that it runs.

    Raises:
        RuntimeError: none can be started here; the text says why.
    """

    def __init__(self) -> None:
        if not SYSTEMD.exists() or not all(map(shutil.which, _NEEDED)):
            raise RuntimeError("no systemd: apt install systemd")
        if os.geteuid() != 0:
            raise RuntimeError("only root can make a control group for a manager")
        # Not in /tmp, which the unit has for itself.
        self.home = Path(tempfile.mkdtemp(prefix=".edgeprune-", dir=Path.home()))
        self.runtime = self.home / "runtime"
        self.runtime.mkdir(mode=0o700)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
        }
        self._groups: list[Path] = []
        self._process: subprocess.Popen[str] | None = None
        try:
            self._groups = _make_groups(self.home.name)
            self._start()
        except (OSError, RuntimeError) as error:
            self.stop()
            raise RuntimeError(f"systemd --user cannot be started here: {error}") from error

    def _start(self) -> None:
        groups = " ".join(f'"{group}"' for group in self._groups)
        self._process = subprocess.Popen(
            ["sh", "-c", _START.format(groups=groups, systemd=SYSTEMD)],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        patience = Patience(20.0)
        while self.ctl("show-environment", check=False).returncode:
            if self._process.poll() is not None or not patience.lasts():
                self._process.kill()
                said = self._process.communicate()[1].strip()
                raise RuntimeError(said.splitlines()[-1] if said else "it ends at once")
            time.sleep(0.1)

    def ctl(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `systemctl --user`."""
        return subprocess.run(
            ["systemctl", "--user", *map(str, words)],
            env=self.environment,
            check=check,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """What it knows of a unit."""
        said = self.ctl("show", unit, "--property", ",".join(names)).stdout
        return dict(line.split("=", 1) for line in said.splitlines())

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.ctl("exit", check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20.0)
            self._process.kill()
        if self._process is not None:
            self._process.communicate()
        for group in self._groups:
            _remove_group(group)
        shutil.rmtree(self.home, ignore_errors=True)


def _make_groups(name: str) -> list[Path]:
    """A control group below this process's own, in each hierarchy that systemd uses."""
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    made = []
    for number, controllers, path in own:
        if controllers != "name=systemd" and number != "0":
            continue
        mounted = Path("/sys/fs/cgroup", {"name=systemd": "systemd", "": "unified"}[controllers])
        group = (mounted if mounted.is_dir() else mounted.parent) / path.lstrip("/") / name
        group.mkdir()
        made.append(group)
    if not made:
        raise RuntimeError("there are no control groups")
    return made


def _remove_group(group: Path) -> None:
    patience = Patience(5.0)
    while group.is_dir():
        folders = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
        with contextlib.suppress(OSError):  # a process in it is about to end
            for folder in [*folders, group]:
                folder.rmdir()
        if not patience.lasts():
            return
        time.sleep(0.05)


@contextlib.contextmanager
def systemd_manager() -> Iterator[SystemdManager]:
    """A manager for a while."""
    manager = SystemdManager()
    try:
        yield manager
    finally:
        manager.stop()
