"""The profile store among processes: killed at any instant, racing, out of disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.store import ProfileStore

PRELUDE = """
import os, random, resource, signal, struct, sys, time
from pathlib import Path
import numpy as np
from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import ProfileError, ProfileNotFound
from edgeprune.runtime.profile import Profile
from edgeprune.runtime.store import ProfileStore

artifact = Artifact.open(sys.argv[1])
model_id = artifact.info.model_id
store = ProfileStore(Path(sys.argv[2]), keep=int(sys.argv[3]), lock_timeout_s=60)

def numbered(number):
    report = {"number": number, "fill": "x" * 20000}
    return Profile(model_id, shifts={"head": np.full(5, number + 1)}, report=report)

def shift_of(profile):
    return (profile.shifts["head"] - 1).tolist()
"""

# A child saves as fast as it can and says so after each save; the parent kills it after a random
# time, and what is then in force must be what was said last, or the one save under way.
KILL_DURING_SAVE = """
random.seed(int(sys.argv[4]))
last, ended_inside, temporary = 0, 0, 0
store.save("me", numbered(0))
for _ in range(25):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        number = last
        while True:
            number += 1
            store.save("me", numbered(number))
            os.write(writer, struct.pack("<I", number))
    os.close(writer)
    time.sleep(random.uniform(0.001, 0.06))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with open(reader, "rb") as pipe:
        said = pipe.read()
    acknowledged = struct.unpack("<I", said[-4:])[0] if said else last
    temporary += any(store.root.rglob(".tmp-*"))
    profile = store.load("me", artifact)
    number = profile.report["number"]
    assert number in (acknowledged, acknowledged + 1), (number, acknowledged)
    assert shift_of(profile) == [number] * 5
    ended_inside += number == acknowledged + 1
    (summary,) = store.list(model_id)
    assert summary.error is None
    for generation in summary.generations:
        whole = store.load("me", artifact, generation)
        assert shift_of(whole) == [whole.report["number"]] * 5
    assert store.rollback(model_id, "me", to=summary.current) == summary.current
    assert not any(store.root.rglob(".tmp-*"))
    last = number
print(last, ended_inside, temporary)
"""

KILL_DURING_FORGET = """
random.seed(int(sys.argv[4]))
counts = {"whole": 0, "partly": 0, "gone": 0}
for _ in range(15):
    for number in range(1, 6):
        store.save("me", numbered(number))
    store.activate(model_id, "me")
    child = os.fork()
    if not child:
        store.forget(model_id, "me")
        time.sleep(60)
    time.sleep(random.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        assert store.load("me", artifact).report["number"] == 5
        assert len(store.list(model_id)[0].generations) == 5
        state = "whole"
    except ProfileNotFound:
        assert store.list(model_id) == () and store.active(model_id) is None
        state = "partly" if any(store.root.rglob("*.safetensors")) else "gone"
    counts[state] += 1
    try:
        store.forget(model_id, "me")
    except ProfileNotFound:
        assert state == "gone"
    assert not any(path.name != ".lock" for path in store.root.rglob("*") if path.is_file())
print(counts)
"""

SAVE_MANY = """
for number in range(15):
    profile = numbered(int(sys.argv[4]) * 100 + number)
    print(store.save("me", profile), profile.report["number"])
"""

FORGET_AND_SAVE = """
for number in range(15):
    store.save(sys.argv[4], numbered(number))
    assert store.load(sys.argv[4], artifact).report["number"] == number
    store.forget(model_id, sys.argv[4])
"""

FILE_SIZE_LIMIT = """
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    store.save("me", numbered(2))
except ProfileError as error:
    print(error)
"""


def start(
    code: str, artifact: Artifact, root: Path, argument: object = 0, *, keep: int = 4
) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", PRELUDE + code]
    command += [str(artifact.path), str(root), str(keep), str(argument)]
    # A single-threaded process, so that forking it is safe.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_during_save(tiny: Artifact, tmp_path: Path, seed: int) -> None:
    saves, *_ = finish(start(KILL_DURING_SAVE, tiny, tmp_path, seed)).split()
    assert int(saves) > 0


def test_kill_9_during_forget(tiny: Artifact, tmp_path: Path) -> None:
    assert "whole" in finish(start(KILL_DURING_FORGET, tiny, tmp_path, 1, keep=9))


def test_two_processes_saving_lose_nothing(tiny: Artifact, tmp_path: Path) -> None:
    processes = [start(SAVE_MANY, tiny, tmp_path, n, keep=100) for n in (1, 2)]
    lines = [line.split() for process in processes for line in finish(process).splitlines()]
    saved = {int(generation): int(number) for generation, number in lines}
    assert sorted(saved) == list(range(1, 31))
    store = ProfileStore(tmp_path)
    assert store.list(tiny.info.model_id)[0].current == 30
    for generation, number in saved.items():
        profile = store.load("me", tiny, generation)
        assert profile.report["number"] == number
        assert profile.parent == (generation - 1 or None)


def test_processes_that_forget_and_save_do_not_meet(tiny: Artifact, tmp_path: Path) -> None:
    """The folder and its lock come and go under the other process."""
    for process in [start(FORGET_AND_SAVE, tiny, tmp_path, name) for name in ("a", "b")]:
        finish(process)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_the_old_in_force(tiny: Artifact, tmp_path: Path) -> None:
    finish(start('store.save("me", numbered(1))', tiny, tmp_path))
    store = ProfileStore(tmp_path)
    before = store.path(tiny.info.model_id, "me", 1).read_bytes()
    message = finish(start(FILE_SIZE_LIMIT, tiny, tmp_path))
    assert "size limit" in message
    assert "Nothing was changed" in message
    assert store.load("me", tiny).to_bytes() == before
    assert store.list(tiny.info.model_id)[0].generations == (1,)
    assert not list(tmp_path.rglob(".tmp-*"))
