"""The benches on the bundled model, briefly: not what they measure, but what they make of it."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

import edgeprune
from edgeprune._demo import demo_model
from edgeprune._machine import Machine
from edgeprune._timing import Limits, Ratio, Spread
from edgeprune.bench._fine_tune import FINE_TUNING, PRUNING
from edgeprune.bench._memory import Task, peak_of
from edgeprune.bench._run import SCHEMA, BenchRun, Row
from edgeprune.bench._run_tables import into_page, markdown, run_table
from edgeprune.bench.compare import compare
from edgeprune.bench.cost import cost
from edgeprune.bench.latency import latency
from edgeprune.runtime.artifact import Artifact

MODEL = demo_model()
ADAPT = MODEL.parent / "demo" / "adapt"
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BRIEF = Limits(budget_s=0.3, fewest=6, block_s=0.002)
QUICK = ("--seconds", "0.1", "--sparsity", "0.5", "-q")


@pytest.fixture(scope="session")
def measured() -> BenchRun:
    return latency(
        Artifact.open(MODEL), threads=(1, 2), batches=(1, 4), shares=(0.5, 0.7), limits=BRIEF
    )


@pytest.fixture(scope="session")
def costs() -> BenchRun:
    return cost(
        Artifact.open(MODEL),
        ADAPT,
        samples=12,
        rounds=2,
        memory_rounds=1,
        growth=(10, 130),
        start_rounds=2,
    )


def by_key(run: BenchRun) -> dict[str, Row]:
    assert len({row.key for row in run.rows}) == len(run.rows)
    return {row.key: row for row in run.rows}


def test_latency_has_a_row_for_every_network(measured):
    rows = by_key(measured)
    assert len(rows) == 4 * (1 + 2 * 4 + 1)
    dense = rows["threads 2, batch 4: dense"]
    assert dense.ratio.low == dense.ratio.high == 1
    assert dense.details["channel_multiple"] is None
    masked = rows["threads 1, batch 1: masked, random 50 %"].details
    assert masked["hidden_units_masked"] == pytest.approx(0.5, abs=0.01)
    assert masked["macs"] == dense.details["macs"]
    rounded = rows["threads 1, batch 4: compacted, random 70 %, multiples of 16"].details
    exact = rows["threads 1, batch 4: compacted, random 70 %, unrounded"].details
    assert exact["macs"] < rounded["macs"] < dense.details["macs"]
    assert exact["parameters"] < rounded["parameters"] < dense.details["parameters"]
    watched = rows["threads 1, batch 4: statistics pass"]
    assert watched.details["samples"] % 32 == 0
    assert watched.ratio.runs >= 6
    assert set(measured.extra["conditions"]) == {
        f"threads {threads}, batch {batch}" for threads in (1, 2) for batch in (1, 4)
    }


def test_latency_of_a_profile_and_of_a_given_plain_network(tmp_path):
    model = edgeprune.load(MODEL, store=tmp_path)
    model.personalize(ADAPT, settings=edgeprune.Settings(min_agreement=0.0))
    model.use(None)
    model.compact(tmp_path / "plain.onnx", timing=False)
    artifact = Artifact.open(MODEL)
    run = latency(
        artifact,
        profile=("mine", model.store.load("default", artifact)),
        plain=tmp_path / "plain.onnx",
        statistics=False,
        limits=BRIEF,
    )
    names = [row.key.partition(": ")[2] for row in run.rows]
    assert names == [
        "dense",
        "masked, profile mine",
        "compacted, profile mine, multiples of 16",
        "int8, compacted, profile mine, multiples of 16",
        "compacted, profile mine, unrounded",
    ]
    assert run.settings["masks"] == ["profile mine"]
    assert run.settings["plain"] == "given"


def test_latency_needs_something_to_prune(tmp_path):
    artifact = Artifact.open(MODEL)
    frozen = tuple(replace(group, kind="linear") for group in artifact.info.groups)
    none = Artifact(artifact.path, artifact.graph, replace(artifact.info, groups=frozen))
    with pytest.raises(edgeprune.InputError, match="--scope all"):
        latency(none, limits=BRIEF)


def test_cost_has_time_and_memory(costs):
    rows = by_key(costs)
    names = ("plain, 8 at a time", "plain, one at a time", "light", "deep")
    starts = ["first answer, bare ONNX Runtime", "first answer"]
    assert list(rows) == [*(f"12 samples: {name}" for name in names), *starts]
    plain, single, light, deep, bare, first = rows.values()
    assert plain.ratio.low == plain.ratio.high == 1
    assert (plain.details["peak_bytes"], plain.details["reads"]) == (None, 1)
    assert single.details["peak_ratio"] == 1
    assert single.details["peak_bytes"] > 10e6
    assert deep.details["reads"] >= light.details["reads"] > 1
    assert deep.details["peak_bytes"] > 10e6
    assert deep.ratio.median > light.ratio.median > 1
    assert bare.ratio.low == bare.ratio.high == 1
    assert first.details["peak_bytes"] is None
    assert first.seconds.median > bare.seconds.median / 2
    assert any("2 rounds are too few" in remark for remark in costs.remarks)
    grown = costs.extra["memory_growth"]
    assert [one["samples"] for one in grown] == [10, 130]  # more than there are files
    assert set(grown[0]["peak_bytes"]) == set(grown[0]["seconds"]) == {"bare", "light", "deep"}
    assert grown[1]["seconds"]["deep"] > grown[1]["seconds"]["bare"] > 0
    assert costs.extra["against_torch"] == []


@pytest.mark.filterwarnings("ignore")
def test_cost_against_torch(pictures, monkeypatch):
    """A process for each way; of a network so small the figures are there and mean nothing."""
    monkeypatch.chdir(Path(__file__).parent)  # where `nets` is
    options = {"rounds": 1, "memory_rounds": 0, "start_rounds": 0, "strengths": ("deep",)}
    run = cost(
        Artifact.open(pictures.model),
        pictures.adapt,
        samples=20,
        factory="nets:pictures",
        weights=pictures.weights,
        **options,
    )
    found = {one["way"]: one for one in run.extra["against_torch"]}
    assert list(found) == ["deep", FINE_TUNING, PRUNING]
    assert found[FINE_TUNING]["time_ratio"] == 1
    assert all(one["seconds"] > 0 and one["time_ratio"] > 0 for one in found.values())
    assert all(one["rounds"] == 1 for one in found.values())
    assert "ratio to fine-tuning" in markdown(run)
    assert found[PRUNING]["removed"] >= found["deep"]["removed"] > 0
    assert found[FINE_TUNING]["answer"] is None
    assert found[PRUNING]["answer"].keys() == {"seconds"}
    ours = found["deep"]["answer"]
    assert ours["low"] <= ours["ratio"] <= ours["high"]
    assert ours["verdict"] in {"faster", "slower", "no difference"}
    assert ours["verdict"] in markdown(run)


def test_a_process_that_fails_says_why():
    task = Task("deep", str(MODEL), "", ["nowhere.wav"], 1)
    with pytest.raises(edgeprune.InputError, match=r"\(deep\) failed: .*nowhere.wav"):
        peak_of(task)


def test_memory_is_that_of_the_process_alone(tmp_path):
    """What this process holds must not count: `ru_maxrss` would start with it."""
    edgeprune.load(MODEL, store=tmp_path).compact(tmp_path / "plain.onnx", timing=False)
    file = next(ADAPT.rglob("*.wav"))
    task = Task("bare", str(MODEL), str(tmp_path / "plain.onnx"), [str(file)], 1)
    before = peak_of(task).peak_bytes
    ballast = bytearray(400_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert peak_of(task).peak_bytes < before + 50_000_000


def test_runs_survive_json(measured, costs, tmp_path):
    for run in (measured, costs):
        path = tmp_path / "run.json"
        path.write_text(json.dumps(run.to_dict(), allow_nan=False))
        read = BenchRun.read(path)
        assert read.to_dict() == json.loads(path.read_text())
        assert read.rows[1].ratio == run.rows[1].ratio
        assert str(MODEL.parent) not in path.read_text()


def test_the_page_documents_every_field(measured, costs):
    page = PAGE.read_text("utf-8")
    for run in (measured, costs):
        data = run.to_dict()
        names = {*data, *data["model"], *data["machine"], *data["rows"][0], *data["extra"]}
        for row in data["rows"]:
            names |= {*row["details"], *row["seconds"], *row["ratio"]}
        assert {name for name in names if f"`{name}`" not in page} == set()
    conditions = costs.extra["conditions"]
    assert {name for name in conditions if f"`{name}`" not in page} == set()


def made_up(ratios: dict[str, float], **details: object) -> BenchRun:
    """A run of these medians, each known within one percent."""
    rows = []
    for key, middle in ratios.items():
        ratio = Ratio(middle, middle, middle, middle * 0.99, middle * 1.01, 0.96, 50)
        if key == "dense":
            ratio = Ratio(1, 1, 1, 1, 1, 0.96, 50)
        rows.append(Row(key, Spread(1.0, 1.0, 1.0), ratio, ratio.verdict(), dict(details)))
    machine = Machine("cpu", "x86_64", 2, None, "Linux", {"numpy": "1"})
    return BenchRun("latency", {"model_id": "a", "name": "m"}, {}, tuple(rows), machine=machine)


def test_what_got_slower_is_found():
    old = made_up({"dense": 1, "masked": 1.0, "compacted": 0.5, "gone": 1.0})
    new = made_up({"dense": 1, "masked": 1.2, "compacted": 0.4, "new": 1.0})
    found = compare(old, new)
    assert [(c.key, c.verdict) for c in found.changes] == [
        ("masked", "slower"),
        ("compacted", "faster"),
    ]
    assert [change.key for change in found.worse] == ["masked"]
    assert found.to_dict()["worse"] == ["masked"]
    assert any("2 rows are in one run only" in remark for remark in found.remarks)
    assert compare(old, new, tolerance=0.3).worse == ()


def test_memory_counts_too():
    old, new = made_up({"light": 1.2}, peak_ratio=1.3), made_up({"light": 1.2}, peak_ratio=1.5)
    (change,) = compare(old, new).worse
    assert (change.figure, change.verdict) == ("memory", "larger")
    assert compare(new, old).changes[1].verdict == "smaller"
    assert compare(old, new, memory_tolerance=0.2).worse == ()


def test_what_cannot_be_compared_is_said(costs):
    old = made_up({"masked": 1.0})
    other = replace(
        old,
        model={"model_id": "b"},
        settings={"seed": 1},
        machine=Machine("another", "x86_64", 2, None, "Linux", {"numpy": "2"}),
        remarks=("it was noisy",),
    )
    told = " ".join(compare(old, other).remarks)
    for word in ("processors: cpu and another", "numpy 1 and 2", "models", "settings: seed"):
        assert word in told
    assert "the second run: it was noisy" in told
    with pytest.raises(edgeprune.InputError, match="bench cost"):
        compare(old, costs)
    with pytest.raises(edgeprune.InputError, match="no row in common"):
        compare(old, made_up({"compacted": 1.0}))


def test_a_run_as_markdown(measured, tmp_path):
    text = markdown(measured)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(measured.rows)
    assert len({line.count("|") for line in lines}) == 1
    assert measured.machine.cpu in text
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter \\1\n")
    into_page(page, text)
    into_page(page, text)
    written = page.read_text()
    assert written.startswith("before\n<!-- bench: begin -->\n\n### digits.onnx: latency")
    assert written.endswith("<!-- bench: end -->\nafter \\1\n")
    assert "old" not in written
    assert written.count(text) == 1
    page.write_text("no marks")
    with pytest.raises(edgeprune.InputError, match="Nothing was changed"):
        into_page(page, text)
    assert page.read_text() == "no marks"


def test_the_table_claims_what_the_verdict_allows():
    rows = {"t: dense": 1.0, "t: masked": 1.005, "t: compacted": 0.5}
    details = {"threads": 1, "batch": 1, "macs": 1, "parameters": 1}
    run = made_up(rows, **details)
    claims = [row[-1] for row in run_table(run).rows]
    assert claims[1:] == ["no difference", "2.00 × faster"]


def test_the_command_measures_and_compares(process, tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        done = process("bench", "latency", MODEL, *QUICK, "--no-statistics", "--json")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        file.write_text(done.stdout)
        assert json.loads(done.stdout)["schema"] == SCHEMA
    done = process("bench", "compare", *files, "--tolerance", "50")
    assert done.returncode == 0, done.stderr
    assert "masked, random 50 %" in done.stdout
    data = json.loads(files[1].read_text())
    for row in data["rows"]:
        row["ratio"] = {
            k: v if k in ("runs", "coverage") else 9 * v for k, v in row["ratio"].items()
        }
    files[1].write_text(json.dumps(data))
    done = process("bench", "compare", *files, "--json")
    assert done.returncode == 1
    worse = json.loads(done.stdout)["worse"]
    assert any("masked, random 50 %" in key for key in worse)
    assert "figures got worse: " in done.stderr
    done = process("bench", "show", files[0])
    assert done.returncode == 0
    assert "reference" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_command_prints_markdown_and_draws(run, tmp_path, monkeypatch):
    words = ("bench", "latency", MODEL, *QUICK, "--no-statistics")
    done = run(*words, "--markdown")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("### digits.onnx: latency")
    assert run(*words, "--markdown", "--json").exit_code == 2
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    done = run(*words, "--plot", tmp_path / "a.png")
    assert done.exit_code == 1
    assert 'pip install "edgeprune[bench]"' in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture(measured, tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from edgeprune.bench._run_plot import plot

    plot(measured, tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size > 5000
    with pytest.raises(edgeprune.InputError, match="cannot draw"):
        plot(measured, tmp_path / "no" / f"a{suffix}")
    with pytest.raises(edgeprune.InputError, match="cannot draw"):
        plot(measured, tmp_path / "a.nonsense")


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["latency", "nowhere.onnx"], 1, "cannot read the model"),
        (["latency", MODEL, "--threads", "0"], 2, "as in 1,2"),
        (["latency", MODEL, "--batch", "1,x"], 2, "as in 1,2"),
        (["latency", MODEL, "--sparsity", "1.0"], 2, "as in 0.5,0.7"),
        (["latency", MODEL, "--sparsity", ""], 2, "as in 0.5,0.7"),
        (["latency", MODEL, "--profile", "nobody"], 1, "no profile 'nobody'"),
        (["latency", MODEL, "--plain", "nowhere.onnx"], 2, "nowhere.onnx"),
        (["cost", MODEL, "nowhere"], 1, "does not exist"),
        (["cost", MODEL, ADAPT, "--samples", "3"], 2, "--samples"),
        (["cost", MODEL, ADAPT, "--growth", "1"], 2, "as in"),
        (["compare", "nowhere.json", "nowhere.json"], 1, "cannot read nowhere.json"),
        (["show", "nowhere.json"], 1, "cannot read nowhere.json"),
        (["show"], 2, "RUN.json"),
        (["latncy"], 2, "No such command"),
    ],
)
def test_wrong_words(run, words, code, hint):
    done = run("bench", *words)
    assert done.exit_code == code, done.output
    assert hint in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("not json", "is not JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "is no run of"),
        ('{"schema": 1, "kind": "personalization"}', "is no run of"),
        ('{"schema": "1", "kind": "latency"}', "is no run of"),
        ('{"schema": 99, "kind": "latency"}', "Upgrade edgeprune"),
        ('{"schema": 1, "kind": "latency", "rows": [{}]}', "is no run of"),
    ],
)
def test_what_is_no_run_is_refused(run, tmp_path, text, hint):
    file = tmp_path / "run.json"
    file.write_text(text)
    for words in (["show", file], ["compare", file, file]):
        done = run("bench", *words)
        assert done.exit_code == 1
        assert hint in done.stderr
        assert "please report" not in done.stderr


@pytest.mark.parametrize("name", ["latency", "cost", "compare", "show"])
def test_every_bench_has_help(run, name):
    page = run("bench", name, "--help")
    assert page.exit_code == 0
    assert "Usage:" in page.stdout
