"""A fault of the machine or the storage costs a sample this run only: nothing is stored, and the next run mends it."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from infra.errors import StageError
from pipelines import stages
from pipelines.audit import audit
from pipelines.core.environment import describe_failures, find_failures
from pipelines.core.run import Run
from tests import corpus
from tests.infra.media.clips import write_video
from tests.tiny import read_json_of, rows

HOW: dict[str, Any] = {"filters": {"facts": {"min_side": 32}}, "duplicates": {"image": {"threshold": 0.95}}}


def assert_same_as_undisturbed(run: Run, tmp_path: Path) -> None:
    """The files of a mended run are those of a run of its own store over the same sources."""
    content = run.config.model_dump(mode="json", exclude_unset=True)
    content |= {"out": str(tmp_path / "undisturbed"), "store": str(tmp_path / "undisturbed-store")}
    for source in content["sources"]:
        source["path"] = source["path"].removeprefix("failing://")
    path = corpus.write_config(tmp_path / "undisturbed.yaml", content)
    undisturbed = stages.open_for_work(str(path), quiet=True)
    stages.run_all(undisturbed)
    assert read_json_of(run, "checksums.json") == read_json_of(undisturbed, "checksums.json")


class FailingFileSystem(LocalFileSystem):
    """A local file system that fails to open paths with an error, so many times each."""

    protocol = "failing"
    cachable = False
    faults: ClassVar[Counter[str]] = Counter()
    error: ClassVar[Exception] = OSError()

    def _open(self, path: str, *rest: Any, **how: Any) -> Any:
        name = Path(path).name
        if self.faults[name] > 0:
            self.faults[name] -= 1
            raise self.error
        return super()._open(path, *rest, **how)


class ForeignError(Exception):
    """An error of a network library, which knows nothing of OSError."""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[FailingFileSystem]:
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
    monkeypatch.setattr(FailingFileSystem, "faults", Counter())
    return FailingFileSystem


FAULTS = [
    OSError(errno.EIO, os.strerror(errno.EIO)),
    OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    OSError("no number"),
    ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
    PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)),
    TimeoutError("too slow"),
    ForeignError("the peer hung up"),
]


@pytest.mark.parametrize("name", ["01.jpg", "01.txt"])
@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_ingest_stores_no_fault_of_the_storage(
    name: str, error: Any, failing: type[FailingFileSystem], tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    (source,) = corpus.write_captioned_pictures(tmp_path / "in", [0, 1])
    source = {**source, "path": f"failing://{source['path']}", "modality": "image"}
    run = make_run([source])
    failing.error, failing.faults[name] = error, 100
    stages.STAGES["ingest"](run)
    good, bad = rows(run, "samples")
    assert good["error"] is None and bad["error"].startswith("unavailable ")
    failing.faults.clear()
    stages.STAGES["ingest"](run)
    assert [row["error"] for row in rows(run, "samples")] == [None, None]


def test_a_file_that_cannot_be_recognised_for_a_fault_of_the_storage_is_not_ignored(
    failing: type[FailingFileSystem], tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    (source,) = corpus.write_captioned_pictures(tmp_path / "in", [0, 1])
    (tmp_path / "in" / "01.jpg").rename(tmp_path / "in" / "01")
    run = make_run([{**source, "path": f"failing://{source['path']}"}])
    failing.error, failing.faults["01"] = OSError(errno.EIO, os.strerror(errno.EIO)), 100
    stages.STAGES["ingest"](run)
    errors = {row["container"]: row["error"] for row in rows(run, "samples")}
    assert errors["00.jpg"] is None and errors["01"].startswith("unavailable medium")
    failing.faults.clear()
    stages.STAGES["ingest"](run)
    assert [row["error"] for row in rows(run, "samples")] == [None, None]


def test_a_decoder_that_runs_out_of_memory(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = corpus.write_captioned_pictures(tmp_path / "in", [0])
    wide = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PIL.Image.fromarray(np.tile(wide, (120, 120, 1))).save(tmp_path / "in" / "wide.png", compress_level=1)
    (tmp_path / "in" / "wide.txt").write_text(corpus.caption(9))
    run = make_run(sources, **HOW)
    with monkeypatch.context() as small:
        small.setattr("pipelines.core.sample_media.share_of_memory", lambda: 2**28)
        stages.run_all(run)
    assert find_failures(run).kinds == {"memory": 1}
    cells = [cell for part in Path(run.store).rglob("*.parquet") for cell in pq.read_table(part).to_pylist()]
    assert cells and not [cell["error"] for cell in cells if (cell.get("error") or "").startswith("memory")]
    stages.run_all(run)
    assert find_failures(run).kinds == {}
    assert_same_as_undisturbed(run, tmp_path)


def test_a_fault_that_passes_is_not_seen(
    failing: type[FailingFileSystem], tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    (source,) = corpus.write_captioned_pictures(tmp_path / "in", [0])
    run = make_run([{**source, "path": f"failing://{source['path']}"}])
    failing.error = OSError(errno.EIO, os.strerror(errno.EIO))
    failing.faults.update({"00.jpg": 2, "00.txt": 2})
    stages.STAGES["ingest"](run)
    assert [row["error"] for row in rows(run, "samples")] == [None]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permissions(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(corpus.write_captioned_pictures(tmp_path / "in", [0, 1]), **HOW)
    (tmp_path / "in" / "01.jpg").chmod(0)
    stages.run_all(run)
    assert find_failures(run).kinds == {"unavailable medium": 1}
    (tmp_path / "in" / "01.jpg").chmod(0o644)
    stages.run_all(run)
    assert_same_as_undisturbed(run, tmp_path)


def test_a_medium_that_is_away_while_it_is_measured(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(corpus.write_captioned_pictures(tmp_path / "in", [0, 1, 2]), **HOW)
    stages.STAGES["ingest"](run)
    shutil.move(tmp_path / "in" / "01.jpg", tmp_path / "away.jpg")
    for stage in ("measure", "decide", "export"):
        stages.STAGES[stage](run)
    failures = find_failures(run)
    assert failures.kinds == {"unreadable": 1} and failures.named[0].startswith("a 01.jpg: facts: unreadable: ")
    shutil.move(tmp_path / "away.jpg", tmp_path / "in" / "01.jpg")
    stages.run_all(run)
    assert find_failures(run).kinds == {}
    assert_same_as_undisturbed(run, tmp_path)


def test_a_file_that_changes_between_ingest_and_measure(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(corpus.write_captioned_pictures(tmp_path / "in", [0, 1, 2]), **HOW)
    stages.STAGES["ingest"](run)
    path = tmp_path / "in" / "01.jpg"
    before = path.stat()
    path.write_bytes(corpus.image_bytes(corpus.picture(7)).ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # neither its size nor its time tell
    for stage in ("measure", "decide", "export"):
        stages.STAGES[stage](run)
    failures = find_failures(run)
    assert failures.kinds == {"changed": 1}
    assert describe_failures(failures)[0] == "1 inputs changed while the run was at work: run the same command again"
    stages.run_all(run)
    assert find_failures(run).kinds == {}
    assert_same_as_undisturbed(run, tmp_path)


def test_a_file_that_changes_between_measure_and_export(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(corpus.write_captioned_pictures(tmp_path / "in", [0, 1]), filters={"caption": None}, duplicates={})
    for stage in ("ingest", "measure", "decide"):
        stages.STAGES[stage](run)
    path = tmp_path / "in" / "01.jpg"
    before = path.stat()
    path.write_bytes(corpus.image_bytes(corpus.picture(7)).ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StageError, match="not what it was at ingest"):
        stages.STAGES["export"](run)
    stages.run_all(run)
    assert_same_as_undisturbed(run, tmp_path)


def write_copies(folder: Path) -> list[dict[str, Any]]:
    """Two copies of a picture, the better one second; two of another; and one without a copy."""
    folder.mkdir()
    for i, (number, quality) in enumerate([(0, 30), (0, 95), (1, 95), (1, 30), (2, 90)]):
        (folder / f"{i}.jpg").write_bytes(corpus.image_bytes(corpus.picture(number), quality=quality))
    return [{"name": "a", "path": str(folder), "modality": "image", "captions": "optional"}]


def outcomes_of(run: Run) -> dict[str, str]:
    container = {row["key"]: row["container"] for row in rows(run, "samples")}
    return {container[row["key"]]: row["outcome"] for row in rows(run, "verdicts")}


@pytest.mark.parametrize("away", [["1.jpg"], ["1.jpg", "4.jpg"], ["0.jpg", "1.jpg"]], ids=str)
def test_a_copy_that_could_not_be_read_is_no_worse_for_it(
    away: list[str], tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    """The storage goes away between `measure` and the reading of text in the pictures of copies, by which they are
    ranked, and of kept samples."""
    vocabulary = tmp_path / "vocabulary.json"
    vocabulary.write_text('["morning", "garden"]')
    run = make_run(
        write_copies(tmp_path / "in"),
        units={"target_rows": 2},
        filters={"facts": {"min_side": 32}},
        duplicates={"image": {}},
        resample={"t": 1, "modalities": ["image"]},
        measure={"late": ["overlay"], "ngrams": {"vocabulary": str(vocabulary)}},
    )
    sound = {"0.jpg": "duplicate", "1.jpg": "kept", "2.jpg": "kept", "3.jpg": "duplicate", "4.jpg": "kept"}
    stages.STAGES["ingest"](run)
    stages.STAGES["measure"](run)
    for name in away:
        (tmp_path / "in" / name).rename(tmp_path / name)
    for _ in range(2):  # a second time, nothing has changed
        stages.STAGES["decide"](run)
        members = [name for name in away if name != "4.jpg"]
        assert outcomes_of(run) == {**sound, "0.jpg": "kept", **dict.fromkeys(members, "failed")}
        failures = find_failures(run)
        assert failures.failed == {"unreadable": len(members)}
        assert failures.unmeasured == ({"unreadable": 1} if "4.jpg" in away else {})
        assert len(failures.named) == len(away)
        assert failures.named[0].startswith(f"a {away[0]}: overlay: unreadable: ")
    for name in away:
        (tmp_path / name).rename(tmp_path / "in" / name)
    stages.STAGES["export"](run)
    (audited,) = audit.run(run.out, quiet=True)
    assert audited.ok, audited.findings
    stages.run_all(run)
    assert find_failures(run).kinds == {} and outcomes_of(run) == sound
    assert_same_as_undisturbed(run, tmp_path)


#: Imported by Python itself at its start: kills a decoder's child at the moment at which it opens a file.
KILLER = """
import os, signal, sys
if "infra.media.decoder_child" in sys.orig_argv:
    def kill(event, arguments):
        if event == "open" and arguments[0] == {path!r} and os.path.exists(__file__):
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(kill)
"""


def test_a_decoder_that_the_system_kills(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    clip = write_video(tmp_path / "in" / "a.mp4", step=1, count=10)
    (tmp_path / "in" / "a.txt").write_text(corpus.caption(1))
    run = make_run(
        [{"name": "v", "path": str(tmp_path / "in"), "modality": "video"}],
        filters={"caption": None},
        duplicates={"video": {}},
        measure={"watchdog_s": 59},  # a limit that no other test has, so that a child is started for it
    )
    stages.STAGES["ingest"](run)
    killer = tmp_path / "killer" / "sitecustomize.py"
    killer.parent.mkdir()
    killer.write_text(KILLER.format(path=str(clip)))
    monkeypatch.syspath_prepend(killer.parent)  # the child's path is that of this process
    stages.STAGES["measure"](run)
    killer.unlink()
    stages.STAGES["decide"](run)
    assert find_failures(run).kinds == {"killed": 1}
    stages.run_all(run)
    assert find_failures(run).kinds == {}
    assert_same_as_undisturbed(run, tmp_path)


@pytest.mark.parametrize("how", ["flip", "delete", "store"])
def test_a_store_that_lost_cells_is_measured_again(how: str, tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(corpus.write_captioned_pictures(tmp_path / "in", [0, 1]), **HOW)
    stages.STAGES["ingest"](run)
    stages.STAGES["measure"](run)
    damage_store(tmp_path / "store", how)
    stages.run_all(run)  # its signals are up to date: only the search for duplicates reads the store
    assert read_json_of(run, "ledger.json")["all"]["kept"] == 2
    assert len(list((tmp_path / "store" / "cells" / "fingerprint").rglob("*.parquet"))) == 1
    assert len(list((tmp_path / "store").rglob("*.damaged"))) == (how == "flip")


def damage_store(store: Path, how: str) -> None:
    (part_file,) = (store / "cells" / "fingerprint").rglob("*.parquet")
    if how == "store":
        shutil.rmtree(store)
    elif how == "delete":
        part_file.unlink()
    else:
        content = bytearray(part_file.read_bytes())
        content[len(content) // 2] ^= 16
        part_file.write_bytes(content)
