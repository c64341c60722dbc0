"""A damaged file of a mixture is written again, bit by bit, and never signed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError, StageError
from mixtures.plan.recipe import Recipe
from pipelines.audit import audit
from pipelines.mix import mix
from tests.mixtures.runs import rows_of, write_run
from tests.pipelines.core.test_integrity import flip_bit

COUNTS = {"video": 2, "image": 2, "text": 4}

#: The ways in which a mixture is written: (materialize, formats).
WAYS: dict[str, tuple[bool, Sequence[str]]] = {
    "plan": (False, ()),
    "tars": (True, ()),
    "emitted": (True, ("energon", "llava")),
}


def write_mixture(folder: Path, way: str, **keys: Any) -> None:
    materialize, formats = WAYS[way]
    recipe = Recipe(**{"size": 10, "repeats": 2, "virtual": {"samples": 5}, **keys})
    mix.run(
        [str(folder / "run")], recipe, str(folder / "mix"), materialize=materialize, formats=formats, quiet=True
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", rows_of(COUNTS), per_shard=8)
    return tmp_path


def every_file(folder: Path) -> dict[str, bytes]:
    """The files of a mixture but scratch, hidden ones included."""
    paths = [path for path in (folder / "mix").rglob("*") if path.is_file()]
    names = {str(path.relative_to(folder / "mix")): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("work/")}


@pytest.mark.parametrize("way", ["plan", "emitted"])
def test_a_flipped_bit_in_any_file_of_a_mixture_is_mended(way: str, folder: Path) -> None:
    write_mixture(folder, way)
    expected = every_file(folder)
    for number, (name, content) in enumerate(sorted(expected.items())):
        flip_bit(folder / "mix" / name, 37 * number % len(content))
        write_mixture(folder, way)
        assert every_file(folder) == expected, name
    assert all(report.ok for report in audit.run(str(folder / "mix"), quiet=True))


def test_scratch_of_a_mixture_may_be_damaged_or_removed(folder: Path) -> None:
    write_mixture(folder, "tars")
    expected = every_file(folder)
    for path in sorted((folder / "mix" / "work").rglob("*.json")):
        flip_bit(path, path.stat().st_size // 2)
        write_mixture(folder, "tars")
        assert every_file(folder) == expected, path
    shutil.rmtree(folder / "mix" / "work")
    write_mixture(folder, "plan")
    assert every_file(folder) == expected


def test_a_plan_does_not_sign_damaged_tars(folder: Path) -> None:
    write_mixture(folder, "tars")
    expected = every_file(folder)
    flip_bit(folder / "mix" / "shards" / "mix-000001.tar", 700)
    for _ in range(2):
        with pytest.raises(StageError, match=r"mix-000001\.tar: a tar of this mixture is missing or damaged") as caught:
            write_mixture(folder, "plan")
        assert "--materialize" in caught.value.hint
        assert not audit.run(str(folder / "mix"), quiet=True)[0].ok
    write_mixture(folder, "tars")
    assert every_file(folder) == expected
    assert {path.name for path in (folder / "mix" / "work" / "damaged").iterdir()} == {"mix-000001.tar"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}\n", b'{"mixture":1}\n'])
def test_a_garbled_manifest_is_written_again(content: bytes, folder: Path) -> None:
    write_mixture(folder, "tars")
    expected = every_file(folder)
    (folder / "mix" / "mixture.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"mixture\.json is damaged") as caught:
        write_mixture(folder, "plan", size=6)
    assert "--replace" in caught.value.hint
    write_mixture(folder, "plan")
    assert every_file(folder) == expected
    assert (folder / "mix" / "work" / "damaged" / "mixture.json").read_bytes() == content
