"""Small studies on the bundled network: real recordings are for the proofs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

import edgeprune
from edgeprune._demo import demo_model
from edgeprune.bench._cells import CellKey, open_results
from edgeprune.bench.arms import ARMS, plan
from edgeprune.runtime.errors import EdgepruneError, InputError
from edgeprune.runtime.settings import Settings

from .studies import (
    OURS,
    SMALL,
    cell,
    cells,
    copy_model,
    invoke,
    lines,
    parsed,
    user,
    wait_until,
)


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
    wait_until(lambda: results.exists() and results.read_text().count("\n") > 4)
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
    for (_, arm, _, _), found in cells(tmp_path / "results.jsonl").items():
        assert found["refused"] == (arm == "A1+")
        assert ("at least 10" in found["reason"]) == (arm == "A1+")


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
