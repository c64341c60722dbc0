"""What other readers make of a mixture: megatron-energon and the Hugging Face loader themselves, LLaVA's data file."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from infra.errors import ConfigError, StageError
from mixtures.plan.recipe import Recipe
from mixtures.shards import emit
from mixtures.shards.copying import name_copy
from mixtures.shards.features import build_features, build_front_matter
from mixtures.shards.manifest import Mixture
from pipelines.mix import mix
from tests.mixtures.runs import Row, rows_of, sample, write_run

COUNTS = {"video": 8, "image": 9, "multi_image": 4, "text": 10}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    folder = tmp_path_factory.mktemp("world")
    run = write_run(folder / "run", rows_of(COUNTS))
    recipe = Recipe(size=40, repeats=2, virtual={"samples": 14})  # type: ignore[arg-type]
    forms = ("energon", "llava")
    return mix.run([str(run)], recipe, str(folder / "mix"), materialize=True, formats=forms, quiet=True)


def keys(mixture: Mixture) -> list[str]:
    return [name_copy(row["key"], row["repeat"]) for row in mixture.members(["key", "repeat"]).to_pylist()]


def test_energon_reads_every_sample_once_and_writes_the_same_index(mixture: Mixture, tmp_path: Path) -> None:
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        edataclass,
        get_loader,
        get_val_dataset,
        stateless,
    )
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset.itar import TarIndexWriter

    @edataclass
    class Ours(Sample):
        record: Any
        members: Any

    @stateless
    def cook(crude: Any) -> Ours:
        members = sorted(name for name in crude if not name.startswith("__"))
        return Ours(**basic_sample_keys(crude), record=crude["json"], members=members)

    class Encoder(DefaultTaskEncoder):
        cookers = [Cooker(cook)]  # noqa: RUF012

    dataset = get_val_dataset(
        mixture.uri, split_part="train", worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None, task_encoder=Encoder(),
    )  # fmt: skip
    read = list(get_loader(dataset))
    assert [read_sample.__key__ for read_sample in read] == keys(mixture)
    assert all(read_sample.__key__.startswith(read_sample.record["id"]) for read_sample in read)
    assert {"mp4", "jpg", "0.jpg", "1.png", "json"} <= {name for read_sample in read for name in read_sample.members}
    for tar in sorted(Path(mixture.uri, "shards").glob("*.tar")):  # the index beside a tar as Energon writes it
        copy = tmp_path / tar.name
        copy.write_bytes(tar.read_bytes())
        last = ""
        with TarIndexWriter(EPath(copy)) as writer, tarfile.open(copy) as opened:
            for info in opened:
                if (key := info.name.split(".")[0]) != last:
                    writer.append(info.offset)
                    last = key
            writer.append(opened.offset)
        ours, theirs = tar.with_name(f"{tar.name}.idx").read_bytes(), copy.with_name(f"{tar.name}.idx").read_bytes()
        assert len(ours) == len(theirs) and ours[:-8] == theirs[:-8]


def test_energon_needs_tars(mixture: Mixture) -> None:
    with pytest.raises(ConfigError, match="reads tars"):
        emit.write_energon(Mixture(mixture.uri, {**mixture.manifest, "materialized": None}))


def test_the_hugging_face_loader_reads_tars_that_mix_members(
    mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    table = datasets.load_dataset(mixture.uri, cache_dir=str(tmp_path))["train"]
    assert table["__key__"][:] == keys(mixture)
    own = {row.key: sample(row) for row in rows_of(COUNTS)}
    assert set(table.column_names) == {"0.jpg", "1.png", "jpg", "json", "mp4", "txt", "__key__", "__url__"}
    seen = set()
    for row in table:
        parts, record = own[row["json"]["id"]]
        assert row["json"] == record
        there = {name for name, content in row.items() if content is not None and not name.startswith("__")}
        assert there == {member.suffix for member in parts}  # and null in the columns that it has not
        for member in parts:
            if member.suffix == "mp4":
                assert row["mp4"]["bytes"] == member.content
            elif member.suffix == "txt":
                assert row["txt"].encode() == member.content
            elif member.suffix != "json":
                assert row[member.suffix].size == Image.open(io.BytesIO(member.content or b"")).size
        seen.add(record["data_type"])
    assert seen == set(COUNTS)
    streamed = datasets.load_dataset(mixture.uri, streaming=True)["train"]
    assert next(iter(streamed))["__key__"] == keys(mixture)[0]


def test_the_head_of_the_readme_names_every_column() -> None:
    text = build_front_matter("a: b", ["json", "mp4", "webm", "1.tif", "npy", "txt"], has_tars=True)
    header = yaml.safe_load(text.strip("-\n"))
    assert header["pretty_name"] == "a: b"
    names = {column["name"]: column.get("dtype") for column in header["dataset_info"]["features"]}
    assert names == {
        "1.tif": "image", "json": None, "mp4": {"video": {"decode": False}}, "npy": "binary", "txt": "string",
        "webm": {"video": {"decode": False}}, "__key__": "string", "__url__": "string",
    }  # fmt: skip
    assert "dataset_info" not in yaml.safe_load(build_front_matter("x", ["json"], has_tars=False).strip("-\n"))


def test_the_features_of_a_record_are_those_that_datasets_finds_in_one() -> None:
    import datasets

    declared = datasets.Features._from_yaml_list(build_features(["json"]))["json"]
    _, record = sample(Row(3, "video", seconds=2.5))
    features = datasets.Dataset.from_list([record]).features
    assert {name: declared[name] for name in declared} == dict(features)


def test_llava_export_has_files_and_one_entry_per_sample_with_turns(mixture: Mixture) -> None:
    folder = Path(mixture.uri, "llava")
    lines = json.loads((folder / "mixture.json").read_bytes())
    own = {row.key: sample(row) for row in rows_of(COUNTS)}
    spoken = [key for key in keys(mixture) if own[key.split("-")[0]][1]["data_type"] != "text"]
    assert [line["id"] for line in lines] == spoken
    for line in lines:
        parts, record = own[line["id"].split("-")[0]]
        assert line["conversations"] == record["conversations"] and line["data_source"] == record["data_source"]
        named = line.get("video") or line["image"]
        paths = named if isinstance(named, list) else [named]
        assert line["conversations"][0]["value"].count("<image>") == len(paths)
        media = {member.suffix: member.content for member in parts if member.suffix not in ("json", "txt")}
        assert [(folder / path).read_bytes() for path in paths] == list(media.values())
        assert not any(path.startswith("/") or ".." in path for path in paths)
    config = yaml.safe_load((folder / "mixture.yaml").read_text())
    assert config == {"datasets": [{"json_path": "mixture.json", "sampling_strategy": "all"}]}


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for who, text in pairs]


@pytest.mark.parametrize(
    ("conversations", "kind", "media", "words"),
    [
        (turns(("gpt", "x"), ("human", "<image>y")), "image", 1, "do not alternate"),
        (turns(("human", "<image>y"), ("gpt", " ")), "image", 1, "one is empty"),
        (turns(("human", "y"), ("gpt", "x")), "video", 1, "placeholder"),
        (turns(("human", "<image>"), ("gpt", "x")), "multi_image", 2, "placeholder"),
        (turns(("human", "<image>"), ("gpt", "see <image>")), "image", 1, "placeholder"),
    ],
)
def test_turns_that_the_llava_trainer_rejects_are_an_error(
    conversations: list[dict[str, str]], kind: str, media: int, words: str
) -> None:
    record = {"id": "k", "data_source": "s", "data_type": kind, "conversations": conversations}
    with pytest.raises(StageError, match=words):
        emit.build_llava_entry(record, "k", ["media/k.x"] * media, "a.tar")


def test_a_sample_without_a_question_has_no_llava_entry() -> None:
    record = {"id": "k", "data_source": "s", "data_type": "text", "conversations": turns(("gpt", "A story."))}
    assert emit.build_llava_entry(record, "k", [], "a.tar") is None
    asked = {**record, "conversations": turns(("human", "Why?"), ("gpt", "So."))}
    assert emit.build_llava_entry(asked, "k-r1", [], "a.tar") == {
        "id": "k-r1", "data_source": "s", "conversations": asked["conversations"]}  # fmt: skip
