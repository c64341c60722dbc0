from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.beam import Runner
from infra.errors import StageError
from mixtures.plan.recipe import Recipe
from mixtures.shards.copying import name_copy
from mixtures.shards.manifest import Mixture, open_mixture
from pipelines.mix import mix
from tests.mixtures.runs import read_manifest, rows_of, write_run

COUNTS = {"video": 14, "image": 12, "multi_image": 5, "text": 16}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a materialized mixture of it with repeats, side by side."""
    folder = tmp_path_factory.mktemp("world")
    write_run(folder / "run", rows_of(COUNTS), per_shard=8)
    write_tars(folder)
    return folder


@pytest.fixture
def own_copy(world: Path, tmp_path: Path) -> Path:
    """A copy of that world to do harm in, without the mixture."""
    shutil.copytree(world / "run", tmp_path / "run")
    return tmp_path


def recipe(**keys: Any) -> Recipe:
    return Recipe(**{"size": 60, "repeats": 2, "virtual": {"samples": 12}, **keys})


def write_tars(folder: Path, workers: int = 1, **keys: Any) -> Mixture:
    runner = Runner(workers=workers)
    return mix.run(
        [str(folder / "run")], recipe(**keys), str(folder / "mix"), materialize=True, runner=runner, quiet=True
    )


def files(folder: Path) -> dict[str, bytes]:
    """The tars, and whatever else lies beside them but cards."""
    beside = sorted((folder / "mix" / "shards").iterdir())
    return {path.name: path.read_bytes() for path in beside if not path.name.endswith(".card.json")}


def test_each_tar_is_its_virtual_shard_and_the_manifest_says_which(world: Path) -> None:
    mixture = open_mixture(str(world / "mix"))
    rows = mixture.members().to_pylist()
    assert len(mixture.manifest["materialized"]) == mixture.manifest["vshards"] == 5
    for v, tar_fields in enumerate(mixture.manifest["materialized"]):
        path = Path(mixture.own_tar(v))
        content = path.read_bytes()
        members = [row for row in rows if row["vshard"] == v]
        assert tar_fields == {
            "name": path.stem,
            "samples": len(members),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        at = 0
        for row in members:  # offsets are the running sum of sizes
            source = Path(mixture.tar(row["shard"])).read_bytes()[row["offset"] : row["offset"] + row["size"]]
            copy = content[at : at + row["size"]]
            assert copy == source or (row["repeat"] and copy[512:] and copy != source)
            at += row["size"]
        with tarfile.open(path) as tar:
            names = [name.split(".", 1)[0] for name in tar.getnames()]
            assert list(dict.fromkeys(names)) == [name_copy(row["key"], row["repeat"]) for row in members]
    assert sum(row["repeat"] > 0 for row in rows) == 13


def test_plain_webdataset_reads_every_sample_once(world: Path) -> None:
    import webdataset

    mixture = open_mixture(str(world / "mix"))
    urls = [mixture.own_tar(v) for v in range(mixture.manifest["vshards"])]
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    rows = mixture.members(["key", "repeat"]).to_pylist()
    assert [sample["__key__"] for sample in read] == [name_copy(row["key"], row["repeat"]) for row in rows]
    assert all(sample["json"]["id"] == row["key"] for sample, row in zip(read, rows, strict=True))


def test_a_killed_command_resumes_to_the_same_bytes(own_copy: Path, world: Path) -> None:
    write_tars(own_copy)
    whole = files(own_copy)
    assert whole == files(world)
    manifest = (own_copy / "mix" / "mixture.json").read_bytes()
    stay = own_copy / "mix" / "shards" / "mix-000003.tar"
    before = stay.stat().st_mtime_ns
    (own_copy / "mix" / "shards" / "mix-000001.tar").unlink()
    (own_copy / "mix" / "work" / "materialize" / "mix-000002.json").unlink()
    short = own_copy / "mix" / "shards" / "mix-000004.tar"
    short.write_bytes(short.read_bytes()[:-512])
    (own_copy / "mix" / "shards" / ".mix-000001.tar.99-abc.tmp").write_bytes(b"what a kill leaves")
    write_tars(own_copy)
    assert files(own_copy) == whole and (own_copy / "mix" / "mixture.json").read_bytes() == manifest
    assert stay.stat().st_mtime_ns == before
    assert told_counters(own_copy) == {
        "made": 2,
        "kept": 3,
        "bytes": sum(len(whole[f"mix-00000{i}.tar"]) for i in (1, 4)),
    }


def told_counters(folder: Path) -> dict[str, int]:
    return dict(json.loads((folder / "mix" / "work" / "materialize" / "counters.json").read_bytes()))


def test_workers_give_the_same_bytes(own_copy: Path, world: Path) -> None:
    write_tars(own_copy, workers=2)
    assert files(own_copy) == files(world)


def test_replanning_keeps_the_tars_and_another_mixture_in_the_folder_removes_them(own_copy: Path) -> None:
    write_tars(own_copy)
    again = mix.run([str(own_copy / "run")], recipe(), str(own_copy / "mix"), quiet=True)
    assert again.manifest["materialized"] is not None and len(files(own_copy)) == 5
    replacement = mix.run([str(own_copy / "run")], recipe(size=24), str(own_copy / "mix"), replace=True, quiet=True)
    assert replacement.manifest["materialized"] is None and not (own_copy / "mix" / "shards").exists()


def catch_mix_error(folder: Path) -> StageError:
    mix.run([str(folder / "run")], recipe(), str(folder / "mix"), quiet=True)
    with pytest.raises(StageError) as caught:
        write_tars(folder)
    manifest = read_manifest(folder / "mix")
    assert manifest["materialized"] is None  # nothing claims to be finished
    for path in (folder / "mix" / "shards").glob(".*"):
        raise AssertionError(f"{path} was left")
    return caught.value


@pytest.mark.parametrize("name", ["text-000000", "image-000001", "video-000000"])
def test_a_flipped_byte_in_a_shard_is_an_error_and_the_repaired_shard_resumes(
    own_copy: Path, world: Path, name: str
) -> None:
    path = own_copy / "run" / "shards" / f"{name}.tar"
    content = bytearray(path.read_bytes())
    at = int(np.random.default_rng(len(name)).integers(len(content)))
    content[at] ^= 4
    path.write_bytes(content)
    error = catch_mix_error(own_copy)
    assert Path(error.where).resolve() == path.resolve() and error.exit_code == 1 and "audit" in error.hint
    content[at] ^= 4
    path.write_bytes(content)
    write_tars(own_copy)
    assert files(own_copy) == files(world)


def test_media_of_sparsely_used_tars_are_verified(own_copy: Path) -> None:
    asked = {"size": 6, "repeats": 1, "shares": {"modality": {"video": 1.0}}}
    good = mix.run([str(own_copy / "run")], recipe(**asked), str(own_copy / "mix"), materialize=True, quiet=True)
    rows = good.members().to_pylist()
    taken = {(row["shard"], row["offset"]) for row in rows}
    plan = json.loads((own_copy / "mix" / "work" / "materialize" / "plan.json").read_bytes())
    few = next(i for i in range(len(good.manifest["shards"])) if i not in plan["whole"])
    shutil.rmtree(own_copy / "mix")
    path = own_copy / "run" / "shards" / f"{good.manifest['shards'][few]['name']}.tar"
    content = bytearray(path.read_bytes())
    offset = next(at for shard, at in taken if shard == few)
    with tarfile.open(path) as tar:
        medium = next(info for info in tar if info.offset >= offset and info.name.endswith(".mp4"))
    content[medium.offset_data + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(StageError, match="differ from the sha256 in its JSON") as caught:
        mix.run([str(own_copy / "run")], recipe(**asked), str(own_copy / "mix"), materialize=True, quiet=True)
    assert Path(caught.value.where.split(", byte")[0]).name == path.name


def test_a_swapped_a_short_and_a_missing_shard_are_named(own_copy: Path) -> None:
    shards = own_copy / "run" / "shards"
    mix.run([str(own_copy / "run")], recipe(), str(own_copy / "mix"), quiet=True)
    mixture = open_mixture(str(own_copy / "mix"))
    from pipelines.mix.materialize import materialize

    first, second = shards / "text-000000.tar", shards / "text-000001.tar"
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes.ljust(len(first_bytes), b"\0")[: len(first_bytes)])
    with pytest.raises(StageError, match=r"another shard|is not the one|not at byte") as caught:
        materialize(mixture, quiet=True)
    assert "text-00000" in caught.value.where
    first.write_bytes(first_bytes[:2048])
    with pytest.raises(StageError, match=r"ends before byte|sha256 differs") as caught:
        materialize(mixture, quiet=True)
    first.unlink()
    with pytest.raises(StageError, match="a shard is missing") as caught:
        materialize(mixture, quiet=True)
    assert caught.value.where.endswith("text-000000.tar")
    first.write_bytes(first_bytes)
    assert materialize(mixture, quiet=True).manifest["materialized"]


def test_after_a_full_disk_the_same_command_resumes(own_copy: Path, world: Path) -> None:
    sizes = sorted(tar_fields["bytes"] for tar_fields in read_manifest(world / "mix")["materialized"])
    limit = sizes[-1] - 512  # a real limit of the system on the size of a file: the largest tar does not fit
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from pipelines.cli import main\n"
        "main()\n"
    )
    yaml = own_copy / "recipe.yaml"
    yaml.write_text("size: 60\nrepeats: 2\nname: mixture\nvirtual: {samples: 12}\n")
    arguments = [
        "mix",
        "--from",
        str(own_copy / "run"),
        "--recipe",
        str(yaml),
        "--out",
        str(own_copy / "mix"),
        "--materialize",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=Path.cwd(), check=False
    )
    assert (
        done.returncode == 1 and "cannot write here: File too large" in done.stderr and "smaller shards" in done.stderr
    )
    assert read_manifest(own_copy / "mix")["materialized"] is None
    assert set(files(own_copy).values()) <= set(files(world).values())  # those that fitted, whole
    assert write_tars(own_copy).manifest["materialized"] == read_manifest(world / "mix")["materialized"]
    assert files(own_copy) == files(world)
