"""The live service for a long time: nothing grows, nothing leaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

SAMPLES = 100_000
PERSONALIZATIONS = 50
SOAK = """
import gc, json, os, sys, threading, time
from pathlib import Path
import numpy as np
import edgeprune
from edgeprune import LiveSample, Service, ServiceSettings
from edgeprune.devices import open_folder, preprocess_from_dict
from edgeprune.runtime.artifact import Artifact

samples, personalizations, store = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
assets = Path(edgeprune.__file__).parent / "assets"
preprocess = preprocess_from_dict(Artifact.open(assets / "digits.onnx").info.preprocess)
folder = open_folder(assets / "demo" / "adapt", preprocess)
arrays = [folder[index].array for index in range(len(folder))]
random = np.random.default_rng(0)


def look():
    status = Path("/proc/self/status").read_text()
    kilobytes = int(status.split("VmRSS:")[1].split()[0])
    return {"rss_mb": kilobytes / 1024, "descriptors": held("fd"), "threads": held("task")}


def held(what):
    # The keeper may be writing a state at the very moment: what is held all the time counts.
    counts = []
    for _ in range(10):
        counts.append(len(os.listdir("/proc/self/" + what)))
        time.sleep(0.05)
    return min(counts)


def idle(service):
    while service.status()["learning"]["state"] == "learning":
        time.sleep(0.005)


missed, looks = 0, []
# The first one comes by itself when the memory for samples is full, the others are asked for.
settings = ServiceSettings(threads=1, learn_after=1000, worker_nice=0)
with Service(assets / "digits.onnx", profile="soak", store=store, settings=settings) as service:
    started = time.perf_counter()
    for number in range(samples):
        if number and number % (samples // personalizations) == 0:
            idle(service)
            service.personalize_now()
        array = arrays[random.integers(len(arrays))]
        result = service.process(LiveSample(array, time.monotonic(), number, "soak"))
        missed += result.sequence != number
        if (number + 1) % (samples // 20) == 0:
            idle(service)
            gc.collect()
            looks.append(look())
    idle(service)
    counts = service.status()["counts"]
    seconds = time.perf_counter() - started
print(json.dumps({"looks": looks, "counts": counts, "missed": missed, "seconds": seconds}))
"""


def test_a_hundred_thousand_samples(tmp_path: Path) -> None:
    words = [str(SAMPLES), str(PERSONALIZATIONS), str(tmp_path)]
    # Clean: thresholds of malloc that a workshop sets would hide or make growth.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", SOAK, *words], capture_output=True, text=True, env=clean, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    after_tenth, *rest = told["looks"][1:]
    rss = [look["rss_mb"] for look in told["looks"]]
    print(f"\n{told['seconds']:.0f} s; counts {told['counts']}")
    print("resident MB at each twentieth:", *(f"{value:.1f}" for value in rss))
    growth = max(rss[1:]) - after_tenth["rss_mb"]
    print(f"growth after the first tenth {growth:.1f} MB; first {after_tenth}, last {rest[-1]}")
    assert told["counts"]["samples"] == SAMPLES
    assert told["counts"]["personalizations"] == PERSONALIZATIONS
    assert told["missed"] == told["counts"]["drifts"] == 0
    assert growth < 5.0
    assert rest[-1]["descriptors"] <= after_tenth["descriptors"]
    assert rest[-1]["threads"] <= after_tenth["threads"]
