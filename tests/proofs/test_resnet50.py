"""The commands of docs/resnet50.md, as they stand there, on ResNet-50 with random weights.

With torchvision installed its own module is taken, by the factory of the page; else ours.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "resnet50.md"
OURS = f"""
import sys
sys.path.append({str(ROOT)!r})
from tests.zoo.residual import resnet50
"""


def made() -> tuple[str, Any]:
    """The text of ``nets.py``, and the network that it makes."""
    try:
        from torchvision.models import resnet50
    except (ImportError, RuntimeError):  # RuntimeError: a torchvision for another torch
        from ..zoo.residual import resnet50 as ours

        return OURS, ours()
    return block("factory"), resnet50()


def block(mark: str) -> str:
    """The block of code that follows a mark on the page."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None, mark
    return found.group(1)


def commands() -> Iterator[list[str]]:
    for line in block("commands").replace("\\\n", " ").splitlines():
        yield shlex.split(line)


@dataclass(frozen=True)
class Done:
    """What a command printed as JSON, how long it took and the most memory it held."""

    answer: Any
    seconds: float
    processor_s: float
    peak_gb: float


def run(words: list[str], folder: Path) -> Done:
    """Run a command of the page, with ``--json`` besides, in a process of its own."""
    assert words[0] == "edgeprune"
    started = time.perf_counter()
    environment = {**os.environ, "EDGEPRUNE_HOME": str(folder / "home")}
    command = [sys.executable, "-m", *words, "--json"]
    with (folder / "out.json").open("w+") as out, (folder / "err.txt").open("w+") as err:
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        assert child.returncode == 0, (words, err.read())
        out.seek(0)
        answer = json.load(out)
    seconds, busy = time.perf_counter() - started, used.ru_utime + used.ru_stime
    return Done(answer, seconds, busy, used.ru_maxrss * 1024 / 1e9)


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page says that one needs, but for torchvision and what it downloads."""
    import torch

    from ..zoo.layers import pretend_trained, seeded

    folder = tmp_path_factory.mktemp("resnet50")
    assert "resnet50" in block("factory")
    (folder / "labels.txt").write_text("\n".join(f"class {number}" for number in range(1000)))
    (folder / "pictures").mkdir()
    for file in sorted((data / "imagenet-sample").glob("*.JPEG"))[::25]:
        (folder / "pictures" / file.name).symlink_to(file)
    seen = pictures_in(folder / "pictures")
    with seeded(0):
        factory, net = made()
        tell_apart(pretend_trained(net, seen[:8]), seen)
    (folder / "nets.py").write_text(factory)
    print(f"\n{type(net).__module__}.{type(net).__name__}")
    torch.save(net.state_dict(), folder / "resnet50.pth")
    return folder


def pictures_in(folder: Path) -> Any:
    """The pictures as the network takes them."""
    import numpy as np
    import torch

    from edgeprune._presets import find_preprocess
    from edgeprune.devices import open_folder, preprocess_from_dict

    found = open_folder(folder, preprocess_from_dict(find_preprocess("imagenet")))
    return torch.from_numpy(np.stack([found[place].array for place in range(len(found))]))


def tell_apart(net: Any, pictures: Any) -> None:
    """Let the head of random weights answer different pictures differently, and for certain.

    As drawn it gives nearly the same answer to all of them, which `personalize` rightly refuses.
    """
    import torch

    with torch.inference_mode():
        logits = net(pictures)
    with torch.no_grad():
        mean = logits.mean(0)
        scale = 10 / (logits - mean).std()
        net.fc.bias.sub_(mean).mul_(scale)
        net.fc.weight.mul_(scale)


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, Done]:
    """The outcome of every command of the page, by its name; they are run once, in order."""
    found = {}
    for words in commands():
        name = words[2] if words[1] == "bench" else words[1]
        found[name] = run(words, folder)
        one = found[name]
        print(
            f"\n{name:12} {one.seconds:6.1f} s ({one.processor_s:.1f} s of the processor), "
            f"{one.peak_gb:.2f} GB",
            end="",
        )
    return found


def test_the_page_goes_the_whole_way() -> None:
    names = [words[1] for words in commands()]
    assert names == ["export", "inspect", "verify", "personalize", "compact", "bench"]


def test_export_in_time_and_memory(done: dict[str, Done]) -> None:
    export = done["export"]
    assert export.answer["worst_error_random"] <= 1e-4
    assert export.answer["worst_error_samples"] <= 1e-4
    assert export.answer["samples_checked"] == 16
    assert export.answer["parameters_prunable"] >= 0.9 * export.answer["parameters"]
    assert [frozen["group"] for frozen in export.answer["frozen"]] == ["fc"]
    assert export.peak_gb < 3
    assert min(export.seconds, export.processor_s) < 60  # of a busy machine it has a share only


def test_every_group_is_told(done: dict[str, Done]) -> None:
    kinds = [group["kind"] for group in done["inspect"].answer["groups"] if not group["frozen"]]
    assert (kinds.count("hidden"), kinds.count("residual")) == (33, 4)  # the stem is one of 33


def test_masked_is_compacted(done: dict[str, Done]) -> None:
    report = done["verify"].answer
    print(f"\nmasked against compacted: {report['masked_error']:.1e}")
    assert report["failures"] == []
    assert report["masked_error"] <= 1e-4
    assert report["masked_error_samples"] <= 1e-4
    compacted = done["compact"].answer
    assert compacted["worst_error_random"] <= 1e-4
    assert compacted["parameters_after"] < 0.5 * compacted["parameters_before"]


def test_speed_follows_multiply_adds(done: dict[str, Done]) -> None:
    """A network of so many fewer multiply-adds is at least 0.85 times so much faster."""
    run = done["latency"].answer
    print("", *run["remarks"], sep="\n")
    shares = {}
    for row in run["rows"]:
        details, ratio = row["details"], row["ratio"]
        fewer, faster = run["model"]["macs"] / details["macs"], 1 / ratio["median"]
        print(
            f"{row['key']:58} {faster:.2f} times faster ({1 / ratio['high']:.2f} to "
            f"{1 / ratio['low']:.2f}, {ratio['runs']} rounds), {fewer:.2f} times fewer"
        )
        if details["channel_multiple"] == 16:
            shares[details["masks"]] = faster / fewer
    print({masks: round(share, 2) for masks, share in shares.items()})
    assert shares.keys() == {"random 50 %", "random 70 %"}
    assert min(shares.values()) >= 0.85
