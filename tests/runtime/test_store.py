"""The profile store: generations, pointers, rollback, forgetting."""

from __future__ import annotations

import errno
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.runtime.artifact import Artifact
from edgeprune.runtime.errors import ProfileError, ProfileMismatch, ProfileNotFound
from edgeprune.runtime.profile import Profile, neutral
from edgeprune.runtime.store import ProfileStore, default_root


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "store", lock_timeout_s=0.2)


def numbered(artifact: Artifact, number: int) -> Profile:
    """Profiles that tell each other apart by their masks, shifts and reports."""
    return Profile(
        artifact.info.model_id,
        masks={"conv1": np.arange(9) <= number % 9},
        shifts={"head": np.full(5, number)},
        created=datetime(2026, 1, 1, 0, 0, number % 60, tzinfo=UTC),
        report={"number": number, "sparsity": {"units": 0.25}},
    )


def fill(store: ProfileStore, artifact: Artifact, count: int, name: str = "me") -> list[bytes]:
    """Save so many generations and return their files' bytes."""
    numbers = [store.save(name, numbered(artifact, n)) for n in range(1, count + 1)]
    return [store.path(artifact.info.model_id, name, n).read_bytes() for n in numbers]


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_saves_and_loads(store: ProfileStore, tiny: Artifact) -> None:
    assert store.save("me", numbered(tiny, 1)) == 1
    assert store.save("me", numbered(tiny, 2)) == 2
    latest, first = store.load("me", tiny), store.load("me", tiny, 1)
    assert (latest.report["number"], latest.parent) == (2, 1)
    assert (first.report["number"], first.parent) == (1, None)
    assert store.load("me", tiny, 0).to_bytes() == neutral(tiny.info).to_bytes()


def test_nothing_exists_before_the_first_save(store: ProfileStore, tiny: Artifact) -> None:
    model_id = tiny.info.model_id
    assert store.list(model_id) == ()
    assert store.active(model_id) is None
    store.activate(model_id, None)
    for call in (
        lambda: store.load("me", tiny),
        lambda: store.load("me", tiny, 3),
        lambda: store.activate(model_id, "me"),
        lambda: store.rollback(model_id, "me"),
        lambda: store.forget(model_id, "me"),
    ):
        with pytest.raises(ProfileNotFound):
            call()
    assert not store.root.exists()


def test_lists_what_there_is(store: ProfileStore, tiny: Artifact, other: Artifact) -> None:
    model_id = tiny.info.model_id
    fill(store, tiny, 3, "anna")
    fill(store, tiny, 1, "bert")
    fill(store, other, 1, "carl")
    store.activate(model_id, "bert")
    store.rollback(model_id, "anna")
    anna, bert = store.list(model_id)
    assert (anna.name, anna.generations, anna.current, anna.active) == ("anna", (1, 2, 3), 2, False)
    assert (anna.strength, anna.sparsity, anna.error) == ("light", {"units": 0.25}, None)
    assert anna.created == datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)
    sizes = [store.path(model_id, "anna", n).stat().st_size for n in (1, 2, 3)]
    assert anna.size_bytes == sum(sizes)
    assert (bert.name, bert.active) == ("bert", True)
    store.rollback(model_id, "bert", to=0)
    assert store.list(model_id)[1].strength is None


def test_activates_and_deactivates(store: ProfileStore, tiny: Artifact) -> None:
    model_id = tiny.info.model_id
    fill(store, tiny, 1)
    assert store.active(model_id) is None
    store.activate(model_id, "me")
    assert store.active(model_id) == "me"
    with pytest.raises(ProfileNotFound):
        store.activate(model_id, "you")
    assert store.active(model_id) == "me"
    store.activate(model_id, None)
    assert store.active(model_id) is None


def test_rollback_is_bit_exact(store: ProfileStore, tiny: Artifact) -> None:
    model_id = tiny.info.model_id
    before = fill(store, tiny, 4)
    tensors = store.load("me", tiny, 2).tensors(tiny)
    assert store.rollback(model_id, "me", 2) == 2
    back = store.load("me", tiny)
    assert back.to_bytes() == before[1]
    assert all(back.tensors(tiny)[name].tobytes() == tensors[name].tobytes() for name in tensors)
    assert store.rollback(model_id, "me", to=4) == 4
    assert [store.path(model_id, "me", n).read_bytes() for n in (1, 2, 3, 4)] == before


def test_rollback_ends_at_the_dense_model(store: ProfileStore, tiny: Artifact) -> None:
    fill(store, tiny, 2)
    assert store.rollback(tiny.info.model_id, "me", 5) == 0
    assert store.load("me", tiny).to_bytes() == neutral(tiny.info).to_bytes()
    assert store.rollback(tiny.info.model_id, "me") == 0


def test_rollback_follows_parents_not_numbers(store: ProfileStore, tiny: Artifact) -> None:
    model_id = tiny.info.model_id
    fill(store, tiny, 3)
    store.rollback(model_id, "me", to=1)
    assert store.save("me", numbered(tiny, 4)) == 4
    assert store.load("me", tiny).parent == 1
    assert store.rollback(model_id, "me") == 1
    store.rollback(model_id, "me", to=0)
    assert store.save("me", numbered(tiny, 5)) == 5
    assert store.load("me", tiny).parent is None


def test_rollback_refuses_what_is_gone(store: ProfileStore, tiny: Artifact) -> None:
    fill(store, tiny, 2)
    with pytest.raises(ProfileNotFound, match="it has 1, 2, and 0"):
        store.rollback(tiny.info.model_id, "me", to=7)
    assert store.load("me", tiny).report["number"] == 2
    with pytest.raises(ValueError, match="steps"):
        store.rollback(tiny.info.model_id, "me", 0)


def test_damage_is_named_and_rolled_back_from(store: ProfileStore, tiny: Artifact) -> None:
    model_id = tiny.info.model_id
    fill(store, tiny, 3)
    path = store.path(model_id, "me", 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ProfileError, match="profiles rollback MODEL me") as caught:
        store.load("me", tiny)
    assert str(path) in str(caught.value)
    assert "cut short" in str(store.list(model_id)[0].error)
    path.write_bytes(b"")
    assert store.rollback(model_id, "me") == 2
    assert store.load("me", tiny).report["number"] == 2


def test_a_missing_generation_is_rolled_back_from(store: ProfileStore, tiny: Artifact) -> None:
    fill(store, tiny, 3)
    store.path(tiny.info.model_id, "me", 3).unlink()
    with pytest.raises(ProfileNotFound, match="profiles rollback MODEL me"):
        store.load("me", tiny)
    assert store.rollback(tiny.info.model_id, "me") == 2


def test_a_parent_that_lies_cannot_make_a_loop(store: ProfileStore, tiny: Artifact) -> None:
    fill(store, tiny, 2)
    liar = Profile(tiny.info.model_id, parent=9)
    store.path(tiny.info.model_id, "me", 2).write_bytes(liar.to_bytes())
    assert store.rollback(tiny.info.model_id, "me") == 1


def test_damaged_pointers_say_how_to_repair(store: ProfileStore, tiny: Artifact) -> None:
    model_id = tiny.info.model_id
    fill(store, tiny, 2)
    current = store.path(model_id, "me", 1).with_name("current")
    for rubbish in (b"", b"x", b"-1", b"1\n2\n", b"\xff" * 300, "²".encode()):
        current.write_bytes(rubbish)
        for call in (
            lambda: store.load("me", tiny),
            lambda: store.save("me", numbered(tiny, 3)),
            lambda: store.rollback(model_id, "me"),
        ):
            with pytest.raises(ProfileError, match="--to N"):
                call()
        assert store.list(model_id)[0].error
    assert store.rollback(model_id, "me", to=2) == 2
    assert store.load("me", tiny).report["number"] == 2
    (current.parent.parent / "active").write_bytes(b"../../etc")
    with pytest.raises(ProfileError, match="Activate"):
        store.active(model_id)


def test_a_profile_of_another_model_is_refused(
    store: ProfileStore, tiny: Artifact, other: Artifact
) -> None:
    fill(store, tiny, 1)
    store.path(tiny.info.model_id, "me", 1).write_bytes(neutral(other.info).to_bytes())
    with pytest.raises(ProfileMismatch):
        store.load("me", tiny)


def test_prunes_old_generations(tmp_path: Path, tiny: Artifact) -> None:
    store = ProfileStore(tmp_path, keep=3)
    for number in range(1, 7):
        store.save("me", numbered(tiny, number))
    (summary,) = store.list(tiny.info.model_id)
    assert summary.generations == (4, 5, 6)
    assert store.rollback(tiny.info.model_id, "me", 2) == 4
    with pytest.raises(ProfileNotFound, match="0 for the dense model"):
        store.rollback(tiny.info.model_id, "me")
    assert store.load("me", tiny).report["number"] == 4


def test_pruning_spares_the_line_of_parents(tmp_path: Path, tiny: Artifact) -> None:
    store = ProfileStore(tmp_path, keep=3)
    fill(store, tiny, 3)
    store.rollback(tiny.info.model_id, "me", to=1)
    store.save("me", numbered(tiny, 4))
    assert store.list(tiny.info.model_id)[0].generations == (1, 3, 4)
    store.save("me", numbered(tiny, 5))
    assert store.list(tiny.info.model_id)[0].generations == (1, 4, 5)
    only = ProfileStore(tmp_path, keep=1)
    assert only.save("me", numbered(tiny, 6)) == 6
    assert only.list(tiny.info.model_id)[0].generations == (6,)
    with pytest.raises(ValueError, match="keep"):
        ProfileStore(tmp_path, keep=0)


def test_forget_leaves_nothing(store: ProfileStore, tiny: Artifact) -> None:
    model_id = tiny.info.model_id
    fill(store, tiny, 3)
    store.activate(model_id, "me")
    (store.path(model_id, "me", 1).parent / ".tmp-1-aa").write_bytes(b"left by a killed writer")
    store.forget(model_id, "me")
    assert list(store.root.iterdir()) == []
    assert store.active(model_id) is None
    with pytest.raises(ProfileNotFound):
        store.load("me", tiny)
    assert store.save("me", numbered(tiny, 1)) == 1


def test_forget_spares_the_others(store: ProfileStore, tiny: Artifact) -> None:
    model_id = tiny.info.model_id
    fill(store, tiny, 1, "me")
    kept = fill(store, tiny, 2, "me-too")
    store.activate(model_id, "me-too")
    store.forget(model_id, "me")
    assert store.active(model_id) == "me-too"
    assert store.load("me-too", tiny).to_bytes() == kept[1]
    assert [summary.name for summary in store.list(model_id)] == ["me-too"]


def test_forget_resumes(
    store: ProfileStore, tiny: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = tiny.info.model_id
    fill(store, tiny, 2)

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "the card was pulled")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", fail)
        with pytest.raises(ProfileError, match="Call forget again"):
            store.forget(model_id, "me")
        assert store.list(model_id) == ()
        assert files_below(store.root)
    store.forget(model_id, "me")
    assert list(store.root.iterdir()) == []


def test_writers_clear_rubbish(store: ProfileStore, tiny: Artifact) -> None:
    fill(store, tiny, 1)
    profile_folder = store.path(tiny.info.model_id, "me", 1).parent
    trash = profile_folder.with_name(".trash-you-0123456789abcdef")
    trash.mkdir()
    (trash / "000001.safetensors").write_bytes(b"x")
    for folder in (profile_folder, profile_folder.parent):
        (folder / ".tmp-99-aa").write_bytes(b"x")
    store.save("me", numbered(tiny, 2))
    names = {path.name for path in files_below(store.root)}
    assert names == {"000001.safetensors", "000002.safetensors", "current", ".lock"}
    assert not trash.exists()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/x", ".hidden", "a\n", "a b", "ä", "a\0", "x" * 65, "active"],
)
def test_refuses_names_that_leave_the_folder(
    store: ProfileStore, tiny: Artifact, name: str
) -> None:
    model_id = tiny.info.model_id
    for call in (
        lambda: store.save(name, numbered(tiny, 1)),
        lambda: store.load(name, tiny),
        lambda: store.activate(model_id, name),
        lambda: store.rollback(model_id, name),
        lambda: store.forget(model_id, name),
        lambda: store.path(model_id, name, 1),
    ):
        with pytest.raises(ProfileError, match="cannot name a profile"):
            call()
    assert not store.root.exists()


@pytest.mark.parametrize("model_id", ["", "..", "../" * 20, "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_refuses_model_ids_that_are_none(store: ProfileStore, model_id: str) -> None:
    for call in (lambda: store.list(model_id), lambda: store.forget(model_id, "me")):
        with pytest.raises(ProfileError, match="no model id"):
            call()


def test_files_are_the_users_alone(store: ProfileStore, tiny: Artifact) -> None:
    old = os.umask(0)
    try:
        fill(store, tiny, 2)
        store.activate(tiny.info.model_id, "me")
    finally:
        os.umask(old)
    for path in [store.root, *store.root.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected


def test_waits_for_another_writer_and_gives_up(store: ProfileStore, tiny: Artifact) -> None:
    fill(store, tiny, 1)
    patient = ProfileStore(store.root, lock_timeout_s=20)
    with store._writing(tiny.info.model_id):
        with pytest.raises(ProfileError, match="another edgeprune process"):
            store.save("me", numbered(tiny, 2))
        assert store.load("me", tiny).report["number"] == 1
        waiting = threading.Thread(target=patient.save, args=("me", numbered(tiny, 3)))
        waiting.start()
    waiting.join()
    assert store.load("me", tiny).report["number"] == 3


def test_a_lock_that_forget_removed_keeps_nobody_out(store: ProfileStore, tiny: Artifact) -> None:
    fill(store, tiny, 1)
    patient = ProfileStore(store.root, lock_timeout_s=20)
    threads = [
        threading.Thread(target=patient.save, args=(f"user{n}", numbered(tiny, n)))
        for n in range(4)
    ]
    with store._writing(tiny.info.model_id):
        for thread in threads:
            thread.start()
        (store.path(tiny.info.model_id, "me", 1).parent.parent / ".lock").unlink()
    for thread in threads:
        thread.join()
    assert len(store.list(tiny.info.model_id)) == 5


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("point", ["open", "fsync", "replace"])
def test_every_failing_call_leaves_old_or_new(
    store: ProfileStore, tiny: Artifact, monkeypatch: pytest.MonkeyPatch, point: str, code: int
) -> None:
    """Let the first, second, … call of a kind fail, until a save gets through."""
    saved = fill(store, tiny, 1)
    owner: Any = Path if point == "replace" else os
    real = getattr(owner, point)
    for failing in range(1, 20):
        calls = 0

        def broken(*args: Any, failing: int = failing, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(code, os.strerror(code))
            return real(*args, **options)

        before = store.load("me", tiny).to_bytes()
        child = numbered(tiny, 2)
        with monkeypatch.context() as patch:
            patch.setattr(owner, point, broken)
            try:
                store.save("me", child)
            except ProfileError as error:
                assert str(error).endswith(".")
            else:
                break
        after = store.load("me", tiny)
        assert after.to_bytes() == before or after.report["number"] == 2
        assert not list(store.root.rglob(".tmp-*"))
    else:
        pytest.fail("never got through")
    assert failing > 1
    assert store.load("me", tiny).report["number"] == 2
    assert store.path(tiny.info.model_id, "me", 1).read_bytes() == saved[0]


def test_a_failed_first_save_leaves_no_profile(
    store: ProfileStore, tiny: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(ProfileError, match="disk is full"):
            store.save("me", numbered(tiny, 1))
    assert store.list(tiny.info.model_id) == ()
    assert {path.name for path in files_below(store.root)} <= {".lock"}
    with pytest.raises(ProfileNotFound):
        store.load("me", tiny)


def test_a_root_that_is_a_file_is_explained(tmp_path: Path, tiny: Artifact) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ProfileError, match="cannot write to"):
        ProfileStore(tmp_path / "file").save("me", numbered(tiny, 1))


def test_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("EDGEPRUNE_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_root() == Path("/home/u/.local/share/edgeprune/profiles")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert default_root() == Path("/home/u/.local/share/edgeprune/profiles")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == Path("/data/edgeprune/profiles")
    monkeypatch.setenv("EDGEPRUNE_HOME", "~/e")
    assert ProfileStore().root == Path("/home/u/e/profiles")
