"""Mixtures over runs from which something was taken down."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mixtures.plan import draw
from mixtures.plan.members_index import read_index
from mixtures.plan.recipe import Recipe
from mixtures.shards.manifest import open_mixture
from pipelines.audit import audit
from pipelines.mix import mix
from pipelines.takedown import takedown
from pipelines.takedown.request import build_request
from tests.pipelines.takedown.world import World, holders, tree

RECIPE = {"name": "m", "unit": "samples", "size": 24, "repeats": 3, "virtual": {"samples": 6},
          "shares": {"modality": {"text": [0.5, 0.5], "image": [0.25, 0.25], "video": [0.25, 0.25]}}}  # fmt: skip


def make(world: World, name: str = "mix", *, materialize: bool = True, **changes: Any) -> Path:
    """A mixture of 12 texts of 12, 6 pictures of 7, 6 clips of 3 (each twice), in four virtual shards."""
    recipe = Recipe.model_validate({**RECIPE, **changes})
    mix.run([str(world.run)], recipe, str(world.root / name), materialize=materialize, quiet=True)
    return world.root / name


def rows(mixture: Path) -> list[dict[str, Any]]:
    matches: list[dict[str, Any]] = open_mixture(str(mixture)).members().to_pylist()
    return matches


def check(mixture: Path, world: World) -> None:
    """It points at what lies there, holds what the same numbers would draw of each group, and each repeat once."""
    mixture_ = open_mixture(str(mixture))
    for report in audit.run(str(mixture), quiet=True):
        assert report.ok, report.to_json()
    index = read_index([str(world.run)], ["modality"])
    hashes = draw.draw_keys(mixture_.manifest["seed"], "mix", index.key)
    keys = index.keys(np.arange(len(index))).to_pylist()
    codes, names = index.columns["modality"]
    for number, group in enumerate(mixture_.manifest["groups"]):
        own = [row for row in rows(mixture) if row["group"] == number]
        order = sorted((i for i in range(len(keys)) if names[codes[i]] == group["modality"]), key=lambda i: hashes[i])
        drawn = [keys[order[i % len(order)]] for i in range(len(own))] if order else []
        assert Counter(row["key"] for row in own) == Counter(drawn)
        repeats: dict[str, list[int]] = {}
        for row in own:
            repeats.setdefault(row["key"], []).append(row["repeat"])
        assert all(sorted(matches) == list(range(len(matches))) for matches in repeats.values())
        assert group["samples"] == len(own)


def test_gaps_are_filled_in_draw_order_and_all_else_stays(world: World) -> None:
    mixture = make(world)
    before, tars = rows(mixture), tree(mixture / "shards")
    removed = next(row["key"] for row in before if row["group"] == 1 and row["repeat"] == 0)  # one more is available
    assert open_mixture(str(mixture)).manifest["groups"][1]["modality"] == "image"
    summary = takedown.run([str(world.root)], build_request(keys=[removed]), quiet=True)
    (entry,) = summary["mixtures"]
    assert (entry["samples"], entry["filled"], entry["short"], entry["out_of_band"]) == (1, 1, {}, [])
    check(mixture, world)
    after = rows(mixture)
    positions = [(row["vshard"], row["position"], row["key"]) for row in before]
    assert [(row["vshard"], row["position"]) for row in after] == [position[:2] for position in positions]
    moved = [old for old, new in zip(positions, after, strict=True) if old[2] != new["key"]]
    assert [position[2] for position in moved] == [removed]
    changed = {name for name, sha in tree(mixture / "shards").items() if tars[name] != sha and name.endswith(".tar")}
    assert changed == {f"mix-{moved[0][0]:06d}.tar"}
    assert removed.encode() not in b"".join(path.read_bytes() for path in mixture.rglob("*.tar"))


def test_gaps_that_cannot_be_filled_are_reported(world: World) -> None:
    mixture = make(world, repeats=1, size=12, shares={"modality": {"text": [0.5, 0.5], "video": [0.25, 0.25]}})
    clip = world.key("clip-1.mp4")  # all three stand in it
    summary = takedown.run([str(world.root)], build_request(keys=[clip]), quiet=True)
    (entry,) = summary["mixtures"]
    assert entry["short"] == {"video": 1} and entry["filled"] == 0 and entry["out_of_band"]
    warning = open_mixture(str(mixture)).manifest["warnings"][-1]
    assert warning.startswith("taken down: video lacks 1")
    check(mixture, world)
    positions = [(row["vshard"], row["position"]) for row in rows(mixture)]
    assert all(position == sum(v == vshard for v, _ in positions[:i]) for i, (vshard, position) in enumerate(positions))


def test_a_repeated_sample_is_replaced_twice(world: World) -> None:
    mixture = make(world)
    clip = world.key("clip-1.mp4")
    assert sum(row["key"] == clip for row in rows(mixture)) == 2
    summary = takedown.run([str(world.root)], build_request(keys=[clip]), quiet=True)
    assert summary["mixtures"][0]["filled"] == 2
    assert {row["repeat"] for row in rows(mixture) if row["group"] == 0} == {0, 1, 2}
    check(mixture, world)


def test_a_mixture_that_lost_nothing_follows_the_new_offsets(world: World) -> None:
    mixture = make(world, materialize=False)
    there = {row["key"] for row in rows(mixture)}
    spare = next(key for key, row in world.rows("members").items() if key not in there and row["modality"] == "image")
    before = rows(mixture)
    summary = takedown.run([str(world.root)], build_request(keys=[spare]), quiet=True)
    assert summary["mixtures"][0]["samples"] == 0
    keep = ("key", "vshard", "position", "repeat", "group")
    assert [{k: row[k] for k in keep} for row in rows(mixture)] == [{k: row[k] for k in keep} for row in before]
    members = world.rows("members")
    assert all(row["offset"] == members[row["key"]]["offset"] for row in rows(mixture))
    check(mixture, world)


def test_mixtures_in_other_folders_are_rewritten_when_named(world: World) -> None:
    mixture = make(world)
    key = rows(mixture)[0]["key"]
    assert takedown.run([str(world.run)], build_request(keys=[key]), quiet=True)["mixtures"] == []
    assert not audit.run(str(mixture), quiet=True)[0].ok
    dry = takedown.run([str(mixture)], build_request(keys=[key]), quiet=True, dry_run=True)
    assert len(dry["mixtures"]) == 1
    takedown.run([str(mixture)], build_request(keys=[key]), quiet=True)
    check(mixture, world)
    assert takedown.run([str(mixture)], build_request(keys=[key]), quiet=True)["mixtures"] == []


def test_a_mixture_without_its_run_is_reported_and_left_alone(world: World) -> None:
    mixture = make(world, materialize=False)
    before = tree(mixture)
    world.run.rename(world.root / "elsewhere")
    (summary,) = takedown.run([str(mixture)], build_request(keys=["x"]), quiet=True)["mixtures"]
    assert "does not exist" in summary["why_not"]
    assert tree(mixture) == before


def test_no_byte_of_a_removed_sample_remains_in_the_mixture(world: World) -> None:
    mixture = make(world)
    row = next(row for row in rows(mixture) if row["group"] == 2)
    text = world.rows("samples")[row["key"]]["text"]
    needles = [row["key"].encode(), text[:60].encode()]
    assert holders(mixture, needles)
    takedown.run([str(world.root)], build_request(keys=[row["key"]]), quiet=True)
    assert holders(mixture, needles) == []


#: As in test_takedown: the child is killed before the n-th rename or removal; n = 0 counts them.
KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.takedown.request import build_request
from pipelines.takedown import takedown
folder, key, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen = 0
def hook(event, args):
    global seen
    if event in ("os.rename", "os.remove", "shutil.rmtree"):
        seen += 1
        if seen == n:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
takedown.run([folder], build_request(keys=[key]), quiet=True)
print(seen)
"""


def test_killed_while_a_mixture_is_rewritten(world: World, another: Callable[[str], World], tmp_path: Path) -> None:
    mixture = make(world)
    key = rows(mixture)[0]["key"]
    takedown.run([str(world.run)], build_request(keys=[key]), quiet=True)  # the mixture is behind now
    behind = tmp_path / "behind"
    subprocess.run(["cp", "-r", str(world.root), str(behind)], check=True)
    command = [sys.executable, "-c", KILLED, str(mixture), key]
    total = int(subprocess.run([*command, "0"], capture_output=True, text=True, check=True).stdout)
    whole = tree(mixture)
    assert total > 8
    for n in (2, total // 2, total - 3):
        subprocess.run(["rm", "-rf", str(world.root)], check=True)
        subprocess.run(["cp", "-r", str(behind), str(world.root)], check=True)
        assert subprocess.run([*command, str(n)], capture_output=True, check=False).returncode == -signal.SIGKILL
        takedown.run([str(mixture)], build_request(keys=[key]), quiet=True)
        assert tree(mixture) == whole, n
    check(mixture, world)
