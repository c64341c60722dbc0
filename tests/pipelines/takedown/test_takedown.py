"""takedown from end to end, on copies of one finished run."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from infra import tables
from infra.errors import StageError
from mixtures.shards import shards
from pipelines import stages
from pipelines.audit import audit
from pipelines.core import tombstones
from pipelines.takedown import takedown
from pipelines.takedown.request import build_request
from pipelines.takedown.rewrite_rows import put
from pipelines.takedown.scan import scan
from tests import corpus
from tests.pipelines.takedown.world import World, holders, tree


def assert_sound(world: World) -> None:
    """The run's own proof holds, and its sums reconcile."""
    for report in audit.run(str(world.run), quiet=True):
        assert report.ok, report.to_json()
    ledger = world.read_json("ledger.json")
    assert not (world.run / ".takedown").exists()
    for entry in ledger.values():
        assert entry["inputs"] == entry["kept"] + entry["duplicates"] + sum(entry["dropped"].values()) + sum(
            entry["failed"].values()
        )
    total: Counter[str] = Counter({"inputs": ledger["all"]["unsharded"]["inputs"]})
    for path in (world.run / "shards").glob("*.card.json"):
        card = json.loads(path.read_bytes())
        total.update(inputs=card["ledger"]["inputs"], kept=card["ledger"]["kept"])
    assert total["inputs"] == ledger["all"]["inputs"]
    assert total["kept"] == ledger["all"]["kept"] == len(world.rows("members"))


def remove(world: World, *keys: str, **how: bool) -> dict[str, object]:
    return takedown.run([str(world.root)], build_request(keys=keys), quiet=True, **how)


def test_a_dry_run_reports_what_would_be_removed_and_changes_nothing(world: World) -> None:
    before = tree(world.root, work=True)
    summary = takedown.run([str(world.root)], build_request(sources=["clips"]), dry_run=True, quiet=True)
    assert tree(world.root, work=True) == before
    (run,) = summary["runs"]
    assert (run["samples"], run["outcomes"], run["dialogues"]) == (3, {"kept": 3}, 3)
    assert [shard["name"] for shard in run["shards"]] == ["video-000000"]
    assert run["still_in_sources"] and run["stores"][0]["cells"] > 0


def test_one_sample_is_removed_and_nothing_else_changes(world: World) -> None:
    key = world.key("picture-4.jpg")
    shard = world.rows("members")[key]["shard"]
    before = tree(world.run)
    remove(world, key)
    assert_sound(world)
    after = tree(world.run)
    parts = sorted((world.run / "verdicts").glob("u*.parquet"))
    unit = next(p.stem for p in parts if key in tables.read(str(p), ["key"])["key"].to_pylist())
    touched = {f"{stage}/{unit}.parquet" for stage in ("samples", "signals", "verdicts", "dialogues")}
    touched |= {f"{stage}/_manifest.json" for stage in ("samples", "signals", "verdicts", "dialogues", "members")}
    touched |= {f"shards/{shard}.tar", f"shards/{shard}.card.json", f"members/{shard}.parquet"}
    touched |= {
        "ledger.json",
        "README.md",
        "croissant.json",
        "checksums.json",
        f"cards/{shard}.html",
        tombstones.FILE,
    }
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} <= touched
    assert before[f"shards/{shard}.tar"] != after[f"shards/{shard}.tar"]
    verdict = world.rows("verdicts")[key]
    assert (verdict["outcome"], verdict["filter"], verdict["reason"]) == ("dropped", "takedown", "key")
    assert world.read_json(f"shards/{shard}.card.json")["made_by"]["takedown"] == {"samples": 1, "reasons": {"key": 1}}


def test_the_tar_is_what_would_have_been_written_of_the_rest(world: World) -> None:
    key = world.key("picture-4.jpg")
    path = world.run / "shards" / f"{world.rows('members')[key]['shard']}.tar"
    samples: dict[str, list[shards.Member]] = {}
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        for info in tar:
            name, suffix = info.name.split(".", 1)
            samples.setdefault(name, []).append(shards.Member(suffix, content=tar.extractfile(info).read()))  # type: ignore[union-attr]
    remove(world, key)
    again = world.root / "again.tar"
    shards.write_tar(again, [(name, parts) for name, parts in samples.items() if name != key])
    assert path.read_bytes() == again.read_bytes()


def test_only_the_accounting_row_of_a_removed_sample_remains(world: World) -> None:
    keys = [world.key("picture-4.jpg"), world.key("clip-1.mp4"), world.key("t7")]
    samples = world.rows("samples")
    raw = world.root / "raw"
    needles = [b"picture-4.jpg", b"clip-1.mp4", b"page/7", corpus.document(7)[:60].encode()]
    for media in (raw / "photos/picture-4.jpg", raw / "clips/clip-1.mp4"):
        half = media.stat().st_size // 2  # away from the head, which all of them share
        needles.append(media.read_bytes()[half : half + 60])
    needles += [samples[key]["text"].strip().encode() for key in keys]
    needles += [medium["sha256"].encode() for key in keys for medium in samples[key]["media"]]
    vectors = store_bytes(world, keys)
    assert vectors and len(holders(world.root / "run", needles)) > 10
    remove(world, *keys)
    assert holders(world.run, needles) == []
    assert holders(world.root / "store", needles) == []
    assert store_bytes(world, keys) == []
    assert set(keys) <= set(world.rows("samples"))
    assert_sound(world)


def store_bytes(world: World, keys: list[str]) -> list[str]:
    """Parts of the store with a cell of one of these samples, found by what the finished run had of them."""
    from infra.store import content_ids
    from infra.tables import read

    mixture_ = world.root.parent / "ids"
    if not mixture_.exists():
        ids: set[str] = set()
        for path in (world.run / "samples").glob("u*.parquet"):
            table = read(str(path))
            for values in content_ids(table).values():
                ids |= {v.hex() for k, v in zip(table["key"].to_pylist(), values.to_pylist(), strict=True) if k in keys}
        mixture_.write_text(json.dumps(sorted(ids)))
    expected = [bytes.fromhex(digest) for digest in json.loads(mixture_.read_text())]
    return holders(world.root / "store", expected)


def test_the_same_run_again_changes_nothing_and_a_lost_shard_comes_back_without_it(world: World) -> None:
    remove(world, world.key("picture-copy.jpg"), world.key("clip-1.mp4"), world.key("t7"), world.key("t8"))
    after = tree(world.run)
    lost = [f"shards/{world.rows('members')[world.key('clip-0.mp4')]['shard']}.tar", "shards/image-000000.card.json"]
    for name in lost:
        (world.run / name).unlink()
    stages.run_all(world.open())
    assert tree(world.run) == after
    assert_sound(world)


def test_removed_samples_stay_out_of_a_new_run(world: World) -> None:
    pair, verdicts = {world.key("picture-2.jpg"), world.key("picture-copy.jpg")}, world.rows("verdicts")
    (copy,) = (key for key in pair if verdicts[key]["duplicate_of"])
    (removed,) = pair - {copy}  # which of them survives is not this test's concern
    assert verdicts[copy]["duplicate_of"] == removed
    summary = remove(world, removed)
    (run,) = summary["runs"]  # type: ignore[misc]
    assert run["held"] == 1
    assert world.rows("verdicts")[copy]["filter"] == "takedown"  # it does not rise in its place
    assert world.rows("samples")[copy]["text"]
    stages.run_all(world.open(replace=True, filters={"caption": None, "quality": {"document": {"min_words": 4}}}))
    verdicts = world.rows("verdicts")
    assert {verdicts[key]["filter"] for key in (removed, copy)} == {"takedown"}
    assert world.rows("samples")[removed]["text"] is None
    assert {removed, copy}.isdisjoint(world.rows("members"))
    assert_sound(world)


def test_the_list_alone_keeps_a_sample_out_of_a_new_folder(world: World) -> None:
    key = world.key("t7")
    remove(world, key)
    new = world.root / "new"
    new.mkdir()
    (new / tombstones.FILE).write_bytes((world.run / tombstones.FILE).read_bytes())
    stages.STAGES["ingest"](world.open(out=new))
    for path in (world.run / "samples").glob("*.parquet"):
        assert (new / "samples" / path.name).read_bytes() == path.read_bytes()


def test_with_duplicates_the_whole_group_is_removed(world: World) -> None:
    removed, copy = world.key("t3"), world.key("again")
    summary = remove(world, removed, with_duplicates=True)
    assert summary["runs"][0]["samples"] == 2  # type: ignore[index]
    for key in (removed, copy):
        assert world.rows("samples")[key]["text"] is None
    assert world.rows("verdicts")[copy]["reason"] == tombstones.COPY_REASON
    assert_sound(world)


def test_a_kept_copy_is_listed(world: World) -> None:
    copy, kept = world.key("t3"), world.key("again")
    assert world.rows("verdicts")[copy]["duplicate_of"] == kept
    summary = remove(world, copy, dry_run=True)
    assert summary["runs"][0]["perceptually_the_same_kept"]["first"] == [kept]  # type: ignore[index]
    assert summary["runs"][0]["same_bytes_elsewhere"]["first"] == [kept]  # type: ignore[index]


def test_content_that_another_sample_has_stays_in_the_store(world: World) -> None:
    before = world.root / "store"
    cells = {path for path in before.rglob("*.parquet") if "clean" in path.parts}
    assert cells
    summary = remove(world, world.key("again"))  # its text is that of t3, which stays
    assert summary["runs"][0]["stores"][0]["cells"] == 0  # type: ignore[index]


def test_content_that_another_run_has_under_another_key_stays_in_the_store(world: World) -> None:
    key = world.key("clip-1.mp4")
    other_run = world.root / "other"
    shutil.copytree(world.run, other_run)
    for path in (other_run / "samples").glob("u*.parquet"):
        table = tables.read(str(path))
        if key in table["key"].to_pylist():
            row = table["key"].to_pylist().index(key)
            tables.write(str(path), put(table, "key", np.array([row]), "z" * 26))
    asked = build_request(keys=[key])
    alone = scan(str(world.run), asked, with_duplicates=False)
    beside = scan(str(world.run), asked, with_duplicates=False, beside=[str(other_run)])
    assert len(alone.ids) == 3 and beside.ids == set()
    assert scan(str(world.run), asked, with_duplicates=False, beside=[str(world.run)]).ids == alone.ids


def test_a_source_a_licence_and_a_list_of_urls(world: World, tmp_path: Path) -> None:
    urls = tmp_path / "urls.txt"
    urls.write_text("# asked for on paper\nHTTP://example.org:80/page/5#top\n\nphotos/nothing.jpg\n")
    (tmp_path / "more.txt").write_text(f"{world.root}/raw/photos/picture-6.jpg\n")
    asked = build_request(sources=["clips"], licences=["zero"], url_lists=[str(urls), str(tmp_path / "more.txt")])
    odd = world.key("t5")  # asked for by its URL too, and by its licence first
    summary = takedown.run([str(world.run)], asked, quiet=True)
    (run,) = summary["runs"]
    assert run["reasons"] == {"source=clips": 3, "licence=zero": 8, "url": 1}
    assert world.rows("verdicts")[odd]["reason"] == "licence=zero"
    assert "clips" not in {row["source"] for row in world.rows("members").values()}
    assert_sound(world)
    readme = (world.run / "README.md").read_text()
    assert "shards/video-000000.tar" not in readme and "video-000000 | 0 |" in readme


def test_repeating_a_takedown_changes_nothing_and_the_order_does_not_matter(another: Callable[[str], World]) -> None:
    at_once, in_turn = another("one"), another("other")
    keys = [at_once.key("t7"), at_once.key("picture-4.jpg")]
    remove(at_once, *keys)
    before = tree(at_once.run)
    remove(at_once, *keys)
    assert tree(at_once.run) == before
    for key in reversed(keys):
        remove(in_turn, key)
    assert tree(in_turn.run) == before


def test_unknown_samples_are_reported(world: World, tmp_path: Path) -> None:
    assert remove(world, "nobody")["unmatched"] == ["nobody"]
    with pytest.raises(StageError, match="no run, mixture or store"):
        takedown.run([str(tmp_path / "world/raw")], build_request(keys=["x"]), quiet=True)
    with pytest.raises(StageError, match="no such folder"):
        takedown.run([str(tmp_path / "nowhere")], build_request(keys=["x"]), quiet=True)


#: Runs a take-down in a child that is killed before the n-th file is renamed or removed; n = 0: counts them.
KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.takedown.request import build_request
from pipelines.takedown import takedown
import tests.pipelines.takedown.world as worlds

source, scratch, keys, points = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","), int(sys.argv[4])

def child(folder, n, quiet=True):
    pid = os.fork()
    if pid == 0:
        seen = 0
        def hook(event, args):
            nonlocal seen
            if event in ("os.rename", "os.remove", "shutil.rmtree", "os.rmdir"):
                seen += 1
                if seen == n:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        takedown.run([str(folder)], build_request(keys=keys), quiet=True)
        (scratch / "count").write_text(str(seen))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

worlds.World(source).copy(scratch / "all")
assert child(scratch / "all", 0) == 0
total = int((scratch / "count").read_text())
for i in range(points):
    n = 1 + i * (total - 1) // (points - 1)
    folder = scratch / f"killed-{i}"
    worlds.World(source).copy(folder)
    assert child(folder, n) == -signal.SIGKILL, n
    assert child(folder, 0) == 0, n
print(total)
"""


def test_killed_anywhere_it_resumes_to_the_same_bytes(finished: World, tmp_path: Path) -> None:
    keys = ",".join(finished.key(name) for name in ("picture-4.jpg", "clip-1.mp4", "t7"))
    points = 6
    command = [sys.executable, "-c", KILLED, str(finished.root), str(tmp_path), keys, str(points)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
    whole, store = tree(tmp_path / "all/run"), tree(tmp_path / "all/store")
    for point in range(points):
        folder = tmp_path / f"killed-{point}"
        assert tree(folder / "run") == whole, point
        assert tree(folder / "store") == store, point
        work = {path.name for path in (folder / "run/work").iterdir()}
        assert {"inventory", "duplicates"}.isdisjoint(work)
