"""Small studies on the bundled network: real recordings are for the proofs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import edgeprune
from edgeprune._cli_bench_personalization import personalization
from edgeprune._demo import demo_model
from edgeprune.bench._arms_forward import templates
from edgeprune.bench._cells import Cell, CellKey, open_results
from edgeprune.bench._measure import measured
from edgeprune.bench._packed import Packed, Stream
from edgeprune.bench._stats import mean_interval, t_quantile
from edgeprune.bench._summary import summarize
from edgeprune.bench._tables import as_markdown, as_text
from edgeprune.bench._users import UserFiles, class_users, parse_takes, recording_users
from edgeprune.bench.arms import ARMS, plan
from edgeprune.devices import ImagePreprocess, open_folder
from edgeprune.runtime.errors import EdgepruneError, InputError
from edgeprune.runtime.settings import Settings

HERE = Path(__file__).parent
SEED = 7
SMALL = ("--users", 2, "--seed", SEED, "--classes-per-user", 5, "--samples", 20)
OURS = "A0,A1,A1+,A2,A3,A4,C1,C3"


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five takes of each digit to adapt to, five others to score on."""
    root = tmp_path_factory.mktemp("trees")
    for file in sorted((demo_model().parent / "demo" / "test").rglob("*.wav")):
        part = "adapt" if int(file.stem) < 5 else "test"
        target = root / part / file.parent.name
        target.mkdir(parents=True, exist_ok=True)
        (target / file.name).symlink_to(file)
    return root / "adapt", root / "test"


@pytest.fixture
def bench(trees: tuple[Path, Path], tmp_path: Path) -> Callable[..., Result]:
    """Call the command on the digits, with its results in a file of the test's own."""

    def call(*words: object, model: Path | None = None) -> Result:
        adapt, test = trees
        given = (model or demo_model(), "--adapt", adapt, "--test", test, *SMALL)
        results = ("--results", tmp_path / "results.jsonl")
        return invoke(*given, *results, *words)

    return call


def invoke(*words: object) -> Result:
    return CliRunner().invoke(personalization, [str(word) for word in words])


def parsed(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    return dict(json.loads(result.stdout))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def cells(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {(c["user"], c["arm"], c["sparsity"], c["samples"]): c for c in lines(path)[1:]}


def user(trees: tuple[Path, Path], seed: int = SEED) -> UserFiles:
    model = edgeprune.load(demo_model())
    (found,) = class_users(*trees, model.preprocess, classes_per_user=5, seeds=[seed])
    return found


# A whole study


def test_a_study_says_what_the_public_api_says(
    bench: Callable[..., Result], trees: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ("--sparsity", "0,0.5", "--arms", f"{OURS},C2,C4", "--json")
    result = bench(*words, "--plots", tmp_path / "plots", "--jobs", 2)
    report = parsed(result)
    found = cells(tmp_path / "results.jsonl")
    someone = user(trees)
    folder = tmp_path / "scored"
    for file, label in someone.test:
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / file.name).symlink_to(file)
    files = [someone.adapt[place][0] for place in someone.stream(20)]
    model = edgeprune.load(demo_model(), threads=1, store=tmp_path / "store")
    for arm, sparsity in (("A1+", None), ("A4", 0.5)):
        model.personalize(files, settings=Settings(sparsity=sparsity or 0.0, threads=1))
        scored = model.evaluate(folder)
        assert scored.personalized is not None
        cell = found[someone.name, arm, sparsity, 20]
        assert cell["right"] / cell["total"] == pytest.approx(scored.personalized.top1)
        assert found[someone.name, "A0", None, None]["right"] == scored.dense.top1 * 25
    assert {"C2-last", "C2-whole", "C4"} <= report["skipped"].keys()
    assert "--factory" in report["skipped"]["C4"]
    assert "trial users (seeds 7 to 8)" in result.stderr
    means = {row["arm"]: row["accuracy"]["mean"] for row in report["rows"]}
    assert means["C1"] >= means["A0"]
    assert means["A2"] < means["A4"]
    assert [Path(p).stat().st_size > 5000 for p in report["plots"]] == [True] * 4
    assert all(row["passes"] > 0 for row in report["rows"] if row["samples"])
    again = parsed(bench(*words))
    assert again["measured"] == 0
    assert again["rows"] == report["rows"]


def test_a_study_that_was_killed_goes_on_where_it_was(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    adapt, test = trees
    words = [demo_model(), "--adapt", adapt, "--test", test, *SMALL, "--results", results]
    words += ["--arms", OURS, "--sparsity", "0.5", "--samples", "20,25"]
    code = "import sys; from edgeprune._cli_bench_personalization import personalization as p; p()"
    command = [sys.executable, "-c", code, *map(str, words)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _wait_until(lambda: results.exists() and results.read_text().count("\n") > 4)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = results.read_text().splitlines(keepends=True)
    assert all(line.endswith("\n") for line in before)
    wanted = [key for seed in (7, 8) for key in _plan(f"seed-{seed}")]
    assert 4 < len(before) < 1 + len(wanted)
    with results.open("a") as file:
        file.write(before[-1][:40])  # what a power cut leaves
    report = parsed(invoke(*words, "--json", "--jobs", 2))
    assert results.read_text().startswith("".join(before))
    assert report["measured"] == len(wanted) - (len(before) - 1)
    assert [tuple(vars(key).values()) for key in wanted] == sorted(
        cells(results), key=lambda key: wanted.index(CellKey(*key))
    )


def _plan(name: str) -> list[CellKey]:
    arms = [arm for arm in ARMS if arm in (*OURS.split(","), "C3-bn", "C3-t3a")]
    return plan(name, arms, (0.5,), (20, 25))


def _wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_where_the_guard_refuses_the_user_keeps_the_dense_network(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    words = ("--arms", "A0,A2,A4", "--sparsity", "0.8", "--set", "min_agreement=1.0")
    report = parsed(bench(*words, "--set", "repair=false", "--json"))
    found = cells(tmp_path / "results.jsonl")
    for name in ("seed-7", "seed-8"):
        dense, control = found[name, "A0", None, None], found[name, "A2", 0.8, 20]
        refused = found[name, "A4", 0.8, 20]
        assert refused["refused"]
        assert refused["right"] == dense["right"]
        assert refused["unguarded"] is not None
        assert control["refused"]
        assert control["right"] / control["total"] == control["unguarded"]
    quality = {each["arm"]: each for each in report["guard"]}
    assert quality["A2"]["harmful"] == quality["A2"]["harmful_refused"] == 2


def test_few_samples_leave_the_dense_network(bench: Callable[..., Result], tmp_path: Path) -> None:
    parsed(bench("--arms", "A0,A1+", "--samples", 5, "--json"))
    for (_, arm, _, _), cell in cells(tmp_path / "results.jsonl").items():
        assert cell["refused"] == (arm == "A1+")
        assert ("at least 10" in cell["reason"]) == (arm == "A1+")


def test_users_of_recordings_each_with_a_model_of_their_own(tmp_path: Path) -> None:
    demo = demo_model()
    for name, digits in (("ada", "01234"), ("bob", "56789")):
        copy_model(tmp_path / name)
        (tmp_path / "data" / name).mkdir(parents=True)
        for digit in digits:
            for file in sorted((demo.parent / "demo" / "test" / digit).iterdir()):
                shutil.copy(file, tmp_path / "data" / name / f"{digit}_{file.name}")
    words = (tmp_path / "{user}" / demo.name, tmp_path / "data", "--samples", 10, "--arms", "A0,C1")
    words += ("--user-pattern", r"(?P<user>\w+)/(?P<label>\d)_(?P<take>\d+)", "--results")
    result = invoke(*words, tmp_path / "all.jsonl", "--markdown")
    assert result.exit_code == 0, result.exception
    assert "2 users: ada, bob" in result.stderr
    assert result.stdout.startswith("**The network as trained")
    assert {key[0] for key in cells(tmp_path / "all.jsonl")} == {"ada", "bob"}
    few = ("--user", "bob", "--classes-per-user", 3, "--adapt-takes", "0-4", "--test-takes", "5-9")
    parsed(invoke(*words, tmp_path / "few.jsonl", *few, "--json"))
    assert {c["total"] for c in lines(tmp_path / "few.jsonl")[1:]} == {15}
    (tmp_path / "bob" / demo.name).unlink()
    assert "bob/digits.onnx" in str(invoke(*words, tmp_path / "all.jsonl").exception)


def test_compaction_is_scored_and_timed(bench: Callable[..., Result], tmp_path: Path) -> None:
    parsed(bench("--users", 1, "--arms", "A4,A5", "--sparsity", "0.5", "--json"))
    masked, compacted = cells(tmp_path / "results.jsonl").values()
    assert masked["right"] == compacted["right"]
    assert compacted["more"]["compacted"]["macs"] > 0.2
    assert compacted["more"]["latency_ratio"]["median"] > 0


# Refusals


def test_the_same_content_must_not_adapt_and_score(
    trees: tuple[Path, Path], tmp_path: Path
) -> None:
    adapt = tmp_path / "adapt"
    shutil.copytree(trees[0], adapt)
    for digit in "0123456789":
        shutil.copy(next((trees[1] / digit).iterdir()), adapt / digit / "other-name.wav")
    results = tmp_path / "results.jsonl"
    words = (demo_model(), "--adapt", adapt, "--test", trees[1], *SMALL, "--results", results)
    with pytest.raises(InputError, match=r"same content adapts as .*other-name"):
        raise invoke(*words).exception  # type: ignore[misc]
    assert not results.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sparsity", "0.5,1"), "below 1"),
        (("--sparsity", "half"), "below 1"),
        (("--samples", "0"), "give numbers"),
        (("--samples", "26"), "25 samples"),
        (("--arms", "A9"), "no arm 'A9'"),
        (("--seed", 195, "--users", 10), "kept apart"),
        (("--set", "sparsity=0.5"), "no such setting"),
        (("--set", "ridge"), "no such setting"),
        (("--set", "ridge=-1"), "ridge"),
        (("--set", "epochs=0"), "epochs"),
        (("--classes-per-user", 11), "share 10 class folders"),
        (("--markdown", "--json"), "exclude each other"),
        (("--cluster", "tcp://127.0.0.1:9"), "scheduler"),
    ],
)
def test_what_makes_no_sense_is_refused(
    bench: Callable[..., Result], tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    if "--cluster" in words:
        pytest.importorskip("distributed")
    result = bench("--arms", "A0", *words)
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
    assert isinstance(result.exception, SystemExit | EdgepruneError)
    results = tmp_path / "results.jsonl"
    assert not results.exists() or len(lines(results)) == 1


@pytest.mark.parametrize(
    "words",
    [(), ("DATA", "--adapt", "x", "--test", "y"), ("--adapt", "x")],
    ids=["no data", "both kinds", "half"],
)
def test_the_data_are_of_one_kind(words: tuple[str, ...]) -> None:
    result = invoke(demo_model(), *words)
    assert result.exit_code == click.UsageError.exit_code
    assert "--adapt and --test" in result.output


def test_results_of_another_study_are_not_mixed_in(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    parsed(bench("--arms", "A0", "--json"))
    before = (tmp_path / "results.jsonl").read_bytes()
    assert "its settings" in str(bench("--arms", "A0", "--set", "ridge=0.2").exception)
    assert "another samples" in str(bench("--arms", "A0", "--test-per-class", 2).exception)
    other = copy_model(tmp_path / "other")
    _rename_model(other)
    assert "another model" in str(bench("--arms", "A0", model=other).exception)
    assert (tmp_path / "results.jsonl").read_bytes() == before
    parsed(bench("--arms", "A0,C1", "--users", 3, "--json"))  # more of the same is welcome


def copy_model(folder: Path) -> Path:
    folder.mkdir()
    for suffix in (".onnx", ".weights", ".masks"):
        shutil.copy(demo_model().with_suffix(suffix), folder)
    return folder / demo_model().name


def _rename_model(path: Path) -> None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    for item in model.metadata_props:
        if item.key == "edgeprune.model_id":
            item.value = "f" * 64
    onnx.save(model, path)


def test_a_file_of_something_else_stays_as_it_is(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    for text in ("my thesis\n", "my thesis", '{"a": 1}\n', "[1]\n"):
        (tmp_path / "results.jsonl").write_text(text)
        assert "holds no results" in str(bench("--arms", "A0").exception)
        assert (tmp_path / "results.jsonl").read_text() == text


def test_two_studies_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with open_results(path, {}), pytest.raises(InputError, match="another process"):
        open_results(path, {}).__enter__()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with open_results(path, {}) as file:
        file.append(cell("a", "A0", 1))
    path.write_text(path.read_text() + '{"user": 1}\n')
    with pytest.raises(InputError, match="line 3"), open_results(path, {}):
        pass


# Torch


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network that has its PyTorch module at hand, and the module's weights."""
    torch = pytest.importorskip("torch")
    from edgeprune.exporters.recipes.keyword import log_mel

    sys.path.insert(0, str(HERE))
    try:
        import nets
    finally:
        sys.path.remove(str(HERE))
    folder = tmp_path_factory.mktemp("untrained")
    net = nets.speech()
    torch.save(net.state_dict(), folder / "net.pt")
    labels = [str(digit) for digit in range(10)]
    example = torch.zeros(1, 1, 40, 63)
    edgeprune.export(net, example, folder / "net.onnx", preprocess=log_mel(8000), labels=labels)
    return folder / "net.onnx", folder / "net.pt"


def test_the_arms_that_need_torch(
    bench: Callable[..., Result],
    untrained: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, weights = untrained
    monkeypatch.chdir(HERE)
    has_pruning = importable("torch_pruning")
    words = ("--users", 1, "--factory", "nets:speech", "--weights", weights, "--json")
    words += ("--arms", "A0,A4,C2" + ",C4" * has_pruning, "--sparsity", "0.5")
    words += ("--set", "lr_whole_labels=0.02", "--set", "epochs=30")
    parsed(bench(*words, model=model))
    found = {key[1]: each for key, each in cells(tmp_path / "results.jsonl").items()}
    assert not [each for each in found.values() if each["status"] != "ok"]
    assert found["C2-whole-labels"]["right"] > found["A0"]["right"]
    assert all(each["seconds"] > 0 for name, each in found.items() if name != "A0")
    if has_pruning:
        assert found["C4"]["macs"] >= found["A4"]["macs"] > 0.2
    other = bench(*words, model=demo_model())
    assert "another model" in str(other.exception)


def test_a_module_that_is_not_the_models_fails_and_is_named(
    bench: Callable[..., Result], untrained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)
    words = ("--users", 1, "--factory", "nets:speech", "--weights", untrained[1])
    result = bench(*words, "--arms", "A0,C2-last")
    assert result.exit_code == 1
    assert "1 of 2 cells failed" in result.stderr
    assert "does not compute what" in result.stderr
    assert "A0" in result.stdout


def importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def test_missing_packages_are_named_with_the_pip_line(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    absent = ("torch", "torch_pruning", "matplotlib", "distributed")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    words = ("--factory", "nets:speech", "--users", 1)
    result = bench("--arms", "A0,C2-last,C4", *words)
    assert result.exit_code == 0
    assert "C4 is left out: torch and torch_pruning not installed: pip install" in result.stderr
    assert "pip install" in str(bench("--plots", tmp_path).exception)
    cluster = bench("--arms", "A0,C1", "--cluster", "tcp://127.0.0.1:9", *words)
    assert "edgeprune[cluster]" in str(cluster.exception)


@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_measures_the_same(bench: Callable[..., Result], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tcp"}
    with distributed.LocalCluster(**options, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        parsed(bench("--arms", "A0,A1,A4", "--sparsity", "0.5", "--json", "--cluster", address))
    there = cells(tmp_path / "results.jsonl")
    (tmp_path / "results.jsonl").unlink()
    parsed(bench("--arms", "A0,A1,A4", "--sparsity", "0.5", "--json"))
    here = cells(tmp_path / "results.jsonl")
    assert there.keys() == here.keys()
    for key, cell_there in there.items():
        # Another number of arithmetic's threads may tip a sample that stands on the edge.
        assert abs(cell_there["right"] - here[key]["right"]) <= (1 if key[1] == "A4" else 0)


# Users


def test_streams_are_balanced_nested_and_shuffled(trees: tuple[Path, Path]) -> None:
    someone = user(trees)
    known = [str(digit) for digit in range(10)]
    drawn = np.random.default_rng(SEED).choice(known, 5, replace=False)
    assert someone.classes == tuple(drawn)
    for count in (5, 10, 25):
        labels = [label for _, label in someone.adapt[:count]]
        assert {labels.count(label) for label in drawn} == {count // 5}
    assert len({path for path, _ in someone.adapt}) == 25
    stream = someone.stream(25)
    assert sorted(stream) == list(range(25)) != stream
    assert someone == user(trees)
    assert someone.adapt != user(trees, SEED + 1).adapt


@pytest.mark.parametrize(
    ("text", "takes"),
    [("even", [0, 2, 4]), ("odd", [1, 3, 5]), ("0-1,4", [0, 1, 4]), ("3", [3])],
)
def test_takes(text: str, takes: list[int]) -> None:
    wanted = parse_takes(text)
    assert [take for take in range(6) if wanted(take)] == takes


@pytest.mark.parametrize("text", ["", "some", "1-", "-1", "1;2"])
def test_takes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="takes"):
        parse_takes(text)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "no regular expression"),
        ("(?P<user>.*)", r"\?P<label>"),
        ("(?P<label>x)", "fits no sample"),
        (r"(?P<label>\d)/(?P<take>\d+)", "would both adapt and score"),
    ],
)
def test_patterns_that_do_not_fit(trees: tuple[Path, Path], pattern: str, message: str) -> None:
    preprocess = edgeprune.load(demo_model()).preprocess
    everything = parse_takes("0-99")
    with pytest.raises(InputError, match=message):
        recording_users(
            trees[0], preprocess, pattern=pattern, adapt_takes=everything, test_takes=everything
        )


# Samples in memory


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("std", [128.0, 58.395])
def test_pictures_are_packed_without_loss(tmp_path: Path, layout: str, std: float) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
        picture.save(tmp_path / f"{number}.png")
    preprocess = ImagePreprocess(
        height=32, width=32, mean=(123.675, 116.28, 103.53), std=(std,), layout=layout
    )
    folder = open_folder(tmp_path, preprocess)
    packed = Packed(folder.paths, preprocess)
    assert {sample.dtype for sample in packed._samples} == {np.dtype(np.uint8)}
    for index in range(3):
        assert packed[index].tobytes() == folder[index].array.tobytes()
    batches = list(Stream(packed, [2, 0, 1]).batches(2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[0][0].tobytes() == packed[2].tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_what_was_added() -> None:
    with measured() as first:
        np.ones(20_000_000).sum()
    with measured() as again:
        np.ones(20_000_000).sum()
    with measured() as nothing:
        pass
    for cost in (first, again):
        assert 150e6 < (cost.added_bytes or 0) < 250e6
        assert cost.seconds > 0
        assert cost.cpu_seconds > 0
    assert (nothing.added_bytes or 0) < 10e6


# What others do


def test_t3a_by_hand() -> None:
    head = np.array([[2.0, 0.0], [0.0, 1.0]])
    features = np.array([[0.0, 3.0], [1.0, 1.0], [0.6, 0.8]])
    logits = np.array([[0.0, 9.0], [0.1, 0.0], [0.0, 2.0]])
    own = head @ head.T
    # Of class 1 the surest two: the first sample (entropy near 0) and the third; not the row.
    found = templates(head, own, features, logits, most=2)
    first = np.array([1.0, 0.0]) + np.array([1.0, 1.0]) / np.sqrt(2)
    second = np.array([0.0, 1.0]) + np.array([0.6, 0.8])
    for row, wanted in zip(found, (first, second), strict=True):
        np.testing.assert_allclose(row, wanted / np.linalg.norm(wanted))


# Arithmetic


def cell(name: str, arm: str, right: int, *, sparsity: float | None = None, **fields: Any) -> Cell:
    samples = 20 if ARMS[arm].samples else None
    key = CellKey(name, arm, sparsity, samples)
    return Cell(key, right=right, total=100, **{"unguarded": right / 100, **fields})


def three_users() -> Iterable[Cell]:
    for name, dense, kept, pruned, ceiling in (
        ("a", 40, 60, 50, 80),
        ("b", 50, 58, 47, 90),
        ("c", 60, 60, 60, 100),
    ):
        yield cell(name, "A0", dense)
        yield cell(name, "C1", ceiling)
        yield cell(name, "A1+", kept, cpu_seconds=2.0, added_mb=10.0)
        yield cell(name, "A4", pruned, sparsity=0.5, cpu_seconds=6.0, added_mb=30.0, agreement=0.9)


def test_means_and_paired_differences_by_hand() -> None:
    summary = summarize(three_users())
    rows = {row.arm: row for row in summary.rows}
    assert rows["A0"].accuracy.mean == pytest.approx(0.5)
    # Standard deviation 0.1, three users: 4.303 · 0.1 / √3 to each side.
    assert rows["A0"].accuracy.high == pytest.approx(0.5 + 0.248414, abs=1e-6)
    assert rows["A0"].difference is None
    # A4 gains 10, loses 3, gains nothing: mean 7/3, deviations 23/3, −16/3, −7/3.
    difference = rows["A4"].difference
    assert difference is not None
    assert difference.mean == pytest.approx(0.07 / 3)
    spread = np.sqrt(((23 / 3) ** 2 + (16 / 3) ** 2 + (7 / 3) ** 2) / 2) / 100
    assert difference.low == pytest.approx(0.07 / 3 - 4.302653 * spread / np.sqrt(3))
    assert rows["A4"].harmed == 1
    assert rows["A4"].gap_closed == pytest.approx(0.07 / 1.2)
    assert rows["A1+"].gap_closed == pytest.approx(0.28 / 1.2)
    contrasts = {(c.arm, c.minus): c for c in summary.contrasts}
    contrast = contrasts["A4", "A1+"]
    assert contrast.difference.mean == pytest.approx(-0.07)
    assert (contrast.better, contrast.worse) == (0, 2)
    assert contrast.time_ratio == contrast.memory_ratio == 3.0
    assert contrasts["A1+", "A0"].sparsity is None
    assert ("A4", "C4") not in contrasts


def test_harm_is_more_than_two_points() -> None:
    dense = cell("a", "A0", 50)
    for right, harmed in ((48, 0), (47, 1)):
        rows = summarize([dense, cell("a", "A4", right, sparsity=0.5)]).rows
        assert [row.harmed for row in rows if row.arm == "A4"] == [harmed]


def test_the_guard_is_judged_by_what_it_prevented() -> None:
    cases = [("a", 0.40, True), ("b", 0.45, False), ("c", 0.49, True), ("d", 0.6, False)]
    made = [cell(name, "A0", 50) for name, _, _ in cases]
    made += [
        cell(name, "A4", 50, sparsity=0.5, unguarded=unguarded, refused=refused)
        for name, unguarded, refused in cases
    ]
    (quality,) = summarize(made).guard
    assert (quality.harmful, quality.harmful_refused) == (2, 1)
    assert (quality.harmless, quality.harmless_allowed) == (1, 1)


def test_failed_cells_are_no_results() -> None:
    failed = replace(cell("d", "A4", 0, sparsity=0.5), status="failed", total=0)
    assert summarize([*three_users(), failed]) == summarize(three_users())


def test_tables_hold_every_arm() -> None:
    summary = summarize(three_users())
    for text in (as_text(summary), as_markdown(summary)):
        for words in ("A1+", "+0.023", "A4 − A1+", "-0.070", "20 samples", "23%"):
            assert words in text
    assert "…" not in as_text(summary)


def test_quantiles_are_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (*range(1, 60), 1000):
        assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-5)
    assert mean_interval([0.3]).low is None


def test_results_come_back_as_they_went(tmp_path: Path) -> None:
    made = [cell("ü", "A4", 7, sparsity=0.5, more={"a": [1, None]}), cell("a", "A0", 1)]
    with open_results(tmp_path / "r.jsonl", {"settings": {"ridge": 0.1}}) as file:
        for each in made:
            file.append(each)
    with open_results(tmp_path / "r.jsonl", {"settings": {"ridge": 0.1}}) as file:
        assert list(file.cells.values()) == made


def test_a_plan_keeps_together_what_shares_work() -> None:
    keys = plan("u", ("A0", "A1+", "A4", "A5"), (0.0, 0.3, "auto"), (20, 50))
    told = [(key.arm, key.sparsity, key.samples) for key in keys]
    assert told[:6] == [
        ("A0", None, None),
        ("A1+", None, 20),
        ("A4", 0.3, 20),
        ("A5", 0.3, 20),
        ("A4", "auto", 20),
        ("A5", "auto", 20),
    ]
    assert len(told) == 11
