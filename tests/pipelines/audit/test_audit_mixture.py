"""A mixture as it is made passes; what its rows, its runs or its tars do not bear out is named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from infra import tables
from infra.errors import StageError
from infra.hashing import canonical_json
from mixtures.cards import schemas
from mixtures.plan.recipe import UNITS, Recipe
from pipelines.audit import audit
from pipelines.mix import mix, mix_options
from tests.mixtures.runs import Row, rows_of, write_run
from tests.pipelines.audit.damage import change_number, edit_json, list_findings, list_numbers

RATIO = "text=0.2,image=0.3,multi_image=0.1,video=0.4"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs and a mixture of them, some samples twice, with tars."""
    folder = tmp_path_factory.mktemp("made")
    counts = {"video": 12, "image": 20, "multi_image": 6, "text": 14}
    write_run(folder / "a", rows_of(counts), name="a", per_shard=8)
    write_run(folder / "b", rows_of(counts, start=100, seed=1), name="b", per_shard=8)
    recipe = mix_options.resolve_recipe(None, RATIO, size=70, seed=3, repeats=2)
    runs = [str(folder / "a"), str(folder / "b")]
    mix.run(runs, recipe, str(folder / "mix"), materialize=True, quiet=True)
    assert 1 in pq.read_table(folder / "mix" / "members.parquet")["repeat"].to_pylist()
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """The same, to damage."""
    shutil.copytree(original, tmp_path / "all", ignore=shutil.ignore_patterns("work", ".lock"))
    return tmp_path / "all"


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change rows of members.parquet, and the hash that mixture.json has of it."""
    path = folder / "mix" / "members.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    path.write_bytes(tables.to_bytes(pa.Table.from_pylist(rows, schema=tables.MIXTURE)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_json(folder / "mix" / "mixture.json", lambda manifest: manifest["members"].update(sha256=digest))


def test_a_mixture_as_it_is_made_has_nothing_to_find(original: Path) -> None:
    (report,) = audit.run(str(original / "mix"), quiet=True)
    assert report.ok, report.findings
    manifest = json.loads((original / "mix" / "mixture.json").read_bytes())
    assert report.looked["samples"] == manifest["totals"]["samples"] == 70
    assert report.looked["tars"] == manifest["vshards"]


@st.composite
def small_mixtures(draw: st.DrawFn) -> tuple[list[Row], dict[str, Any]]:
    """Rows of few samples, of any lengths, and the settings of a recipe over them."""
    modalities = draw(st.lists(st.sampled_from(["video", "image", "multi_image", "text"]), min_size=1, max_size=8))
    seconds = st.floats(1e-4, 1e4, allow_subnormal=False)
    rows = [
        Row(number, modality, draw(st.sampled_from("ab")), seconds=draw(seconds) if modality == "video" else 0.0)
        for number, modality in enumerate(modalities)
    ]
    units = ["samples", "tokens", "bytes", *(["seconds"] if "video" in modalities else [])]
    shares = {"source": {"a": (0.0, 1.0)}} if draw(st.booleans()) else {}
    repeats = draw(st.integers(1, 3))
    size = "max" if repeats > 1 else None
    return rows, {"unit": draw(st.sampled_from(units)), "shares": shares, "repeats": repeats, "size": size}


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(small_mixtures(), st.data())
def test_a_fresh_mixture_is_clean_and_with_any_number_changed_it_is_not(
    mixture: tuple[list[Row], dict[str, Any]], data: st.DataObject
) -> None:
    rows, recipe = mixture
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "a", rows, per_shard=3)
        materialize = data.draw(st.booleans(), "materialize")
        mix.run([str(folder / "a")], Recipe(**recipe), str(folder / "mix"), materialize=materialize, quiet=True)
        (report,) = audit.run(str(folder / "mix"), quiet=True)
        assert report.ok, report.findings
        for path in sorted(p for p in (folder / "mix").rglob("*.json") if p.parent.name in ("mix", "shards")):
            original = path.read_bytes()
            numbers = list_numbers(json.loads(original))
            if path.name == "croissant.json" or not numbers:
                continue
            number = data.draw(st.sampled_from(numbers), path.name)
            content = json.loads(original)
            change_number(content, number)
            path.write_bytes(canonical_json(content))
            with contextlib.suppress(StageError):  # the number of its version
                assert list_findings(folder / "mix"), f"{path.name}: {number}"
            path.write_bytes(original)
        column = data.draw(st.sampled_from(["offset", "size", "tokens", "seconds", "bytes", "repeat", "position"]))
        rewrite(folder, lambda table: table[0].update({column: table[0][column] + 1}))
        assert any(file == "members.parquet" for file, _ in list_findings(folder / "mix"))


def test_published_files_of_a_mixture_match_their_schemas(original: Path) -> None:
    folder = original / "mix"
    published = [("mixture.json", "mixture"), ("card.json", "mixture-card"), ("croissant.json", "croissant")]
    published += [(f"shards/{path.name}", "tar-card") for path in (folder / "shards").glob("*.card.json")]
    for path, name in published:
        assert schemas.find_errors(name, json.loads((folder / path).read_bytes())) == []


def test_the_card_of_a_mixture_counts_its_rows(original: Path) -> None:
    """Against a plain loop over the members of the runs."""
    card = json.loads((original / "mix" / "card.json").read_bytes())
    manifest = json.loads((original / "mix" / "mixture.json").read_bytes())
    index = {}
    for run in ("a", "b"):
        for path in (original / run / "members").glob("*.parquet"):
            index |= {row["key"]: row for row in pq.read_table(path).to_pylist()}
    rows = pq.read_table(original / "mix" / "members.parquet").to_pylist()
    for field, column in (("sources", "source"), ("licences", "licence"), ("kinds", "kind"), ("languages", "language")):
        counted: dict[str, dict[str, float]] = {}
        for row in rows:
            sums = counted.setdefault(index[row["key"]][column], dict.fromkeys(UNITS, 0))
            sums["samples"] += 1
            for unit in ("tokens", "seconds", "bytes"):
                sums[unit] += row[unit]
        assert card[field].keys() == counted.keys()
        for name, amounts in counted.items():
            assert card[field][name] == pytest.approx(amounts)
    copies = np.bincount([row["repeat"] for row in rows]).tolist()
    assert card["repeats"] == {str(n): count for n, count in enumerate(copies)}
    assert card["manifest"] == hashlib.sha256((original / "mix" / "mixture.json").read_bytes()).hexdigest()
    assert [p["members"] for p in card["parents"]] == [p["members"] for p in manifest["parents"]]
    tars = [json.loads(p.read_bytes()) for p in sorted((original / "mix" / "shards").glob("*.card.json"))]
    assert sum(tar["samples"] for tar in tars) == 70
    assert sum(tar["totals"]["bytes"] for tar in tars) == manifest["totals"]["bytes"]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("tokens", lambda rows: rows[5].update(tokens=rows[5]["tokens"] + 1)),
        ("seconds", lambda rows: rows[5].update(seconds=rows[5]["seconds"] + 1)),
        ("bytes", lambda rows: rows[5].update(bytes=rows[5]["bytes"] + 1)),
        ("size", lambda rows: rows[5].update(size=rows[5]["size"] + 512)),
        ("offset", lambda rows: rows[5].update(offset=rows[5]["offset"] + 512)),
        ("key", lambda rows: rows[5].update(key=rows[6]["key"])),
        ("repeat", lambda rows: rows[5].update(repeat=rows[5]["repeat"] + 1)),
        ("group", lambda rows: rows[5].update(group=99)),
        ("shard", lambda rows: rows[5].update(shard=-1)),
        ("position", lambda rows: rows.reverse()),
        ("position", lambda rows: rows.pop(5)),
        ("vshard", lambda rows: [row.update(vshard=row["vshard"] + 1) for row in rows]),
    ],
)
def test_a_row_that_contradicts_its_run_is_found(copy: Path, field: str, change: Any) -> None:
    rewrite(copy, change)
    assert ("members.parquet", field) in list_findings(copy / "mix")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("totals.samples", lambda v: v["totals"].update(samples=71)),
        ("totals.seconds", lambda v: v["totals"].update(seconds=v["totals"]["seconds"] + 0.01)),
        ("achieved.tokens.text", lambda v: v["achieved"]["tokens"].update(text=v["achieved"]["tokens"]["text"] + 1e-4)),
        ("groups.0.bytes", lambda v: v["groups"][0].update(bytes=v["groups"][0]["bytes"] + 1)),
        ("shards.0.sha256", lambda v: v["shards"][0].update(sha256="0" * 64)),
        ("parents.1.members", lambda v: v["parents"][1].update(members="0" * 64)),
        ("parents.1.run", lambda v: v["parents"][1].update(run="../nowhere")),
        ("materialized.0.samples", lambda v: v["materialized"][0].update(samples=1)),
        ("materialized.0.bytes", lambda v: v["materialized"][0].update(bytes=1)),
        ("vshards", lambda v: v.update(vshards=v["vshards"] + 1)),
        ("unit", lambda v: v.update(unit="pounds")),
        ("value", lambda v: v.pop("seed")),
    ],
)
def test_a_field_of_the_manifest_that_contradicts_its_rows_is_found(copy: Path, field: str, change: Any) -> None:
    edit_json(copy / "mix" / "mixture.json", change)
    assert ("mixture.json", field) in list_findings(copy / "mix")


def test_a_forged_seed_differs_from_the_card(copy: Path) -> None:
    edit_json(copy / "mix" / "mixture.json", lambda manifest: manifest.update(seed=4))
    assert {("card.json", "manifest"), ("card.json", "seed")} <= list_findings(copy / "mix")


def test_any_byte_of_tars_manifest_rows_and_cards_is_found(copy: Path) -> None:
    random = np.random.default_rng(7)
    folder = copy / "mix"
    files = [folder / "mixture.json", folder / "members.parquet", folder / "card.json", folder / "croissant.json",
             *sorted(folder.glob("shards/*"))]  # fmt: skip
    for path in [files[int(n)] for n in random.integers(0, len(files), 12)] + files[:4]:
        offset = int(random.integers(path.stat().st_size))
        content = bytearray(path.read_bytes())
        content[offset] ^= 1 << int(random.integers(8))
        good = path.read_bytes()
        path.write_bytes(bytes(content))
        try:
            names = {path.name, "card.json"} if path.name == "mixture.json" else {path.name}  # it has that file's hash
            assert names & {Path(file).name for file, _ in list_findings(copy / "mix")}, f"byte {offset} of {path.name}"
        except StageError as error:  # the byte of its version
            assert path.name == "mixture.json" and "version" in error.what
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["README.md", "card.html", "cards"])
def test_any_digit_changed_on_a_page_for_people_is_found(copy: Path, name: str) -> None:
    folder = copy / "mix"
    path = sorted(folder.glob("cards/*.html"))[0] if name == "cards" else folder / name
    original = path.read_bytes()
    digits = [position for position, byte in enumerate(original) if chr(byte).isdigit()]
    for position in np.random.default_rng(8).choice(digits, 4, replace=False).tolist():
        digit = str((int(chr(original[position])) + 1) % 10).encode()
        path.write_bytes(original[:position] + digit + original[position + 1 :])
        assert str(path.relative_to(folder)) in {file for file, _ in list_findings(copy / "mix")}
    path.unlink()
    assert (str(path.relative_to(folder)), "file") in list_findings(copy / "mix")


def test_pages_of_another_version_are_not_compared(copy: Path) -> None:
    for name in ("README.md", "card.html"):
        (copy / "mix" / name).write_text("worded in another way")
    edit_json(copy / "mix" / "mixture.json", lambda manifest: manifest.update(reelmill="0"))
    assert {file for file, _ in list_findings(copy / "mix")} == {"card.json"}  # it has the sha256 of mixture.json


def test_content_that_differs_from_the_run_is_found(copy: Path) -> None:
    """A tar of the mixture with another medium, and every hash of it made right."""
    path = sorted((copy / "mix" / "shards").glob("*.tar"))[0]
    tar = bytearray(path.read_bytes())
    offset = tar.index(b"JFIF")
    tar[offset] ^= 1
    path.write_bytes(bytes(tar))
    digest = hashlib.sha256(bytes(tar)).hexdigest()
    edit_json(copy / "mix" / "mixture.json", lambda manifest: manifest["materialized"][0].update(sha256=digest))
    assert (f"shards/{path.name}", "content") in list_findings(copy / "mix")


def test_a_run_that_changed_after_the_mixture_was_made(copy: Path) -> None:
    edit_json(copy / "a" / "members" / "_manifest.json", lambda content: content.update(input="1" * 32))
    edit_json(copy / "a" / "checksums.json", lambda content: content.update(dict.fromkeys(content, "0" * 64)))
    findings = list_findings(copy / "mix")
    assert ("mixture.json", "parents.0.members") in findings
    assert any(field.startswith("shards.") and field.endswith(".sha256") for _, field in findings)


def test_missing_files_are_named(copy: Path) -> None:
    tar = sorted((copy / "mix" / "shards").glob("*.tar"))[0]
    tar.rename(tar.with_name("other.tar"))
    assert {(f"shards/{tar.name}", "file"), ("shards/other.tar", "file")} <= list_findings(copy / "mix")
    (copy / "mix" / "members.parquet").unlink()
    assert ("members.parquet", "file") in list_findings(copy / "mix")


def test_another_version_is_refused(copy: Path) -> None:
    edit_json(copy / "mix" / "mixture.json", lambda manifest: manifest.update(mixture=99))
    with pytest.raises(StageError, match="version 99"):
        list_findings(copy / "mix")


def test_deep_audit_decodes_the_media_of_a_mixture(original: Path) -> None:
    (report,) = audit.run(str(original / "mix"), deep=True, quiet=True)
    rows = pq.read_table(original / "mix" / "members.parquet", columns=["group"])["group"].to_pylist()
    groups = [group["modality"] for group in json.loads((original / "mix" / "mixture.json").read_bytes())["groups"]]
    modalities = [groups[group] for group in rows]
    assert report.looked["media"] >= sum(modality != "text" for modality in modalities)
    # The pictures of these runs are pictures; their videos are random bytes, whose hashes are right.
    assert {finding.field for finding in report.findings} == {"media"}
    assert report.total == modalities.count("video") > 0
