"""Every setting at the ends of what its schema allows: a config is refused before any work, or it runs to its end.

The values come from the schema itself, so that a new setting is tried without a change here.
"""

from __future__ import annotations

import copy
import itertools
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import pyarrow as pa
import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from annotators import ANNOTATORS
from annotators.interface import Annotator, FrameAnnotator, StreamAnnotator
from filters import FILTERS
from infra.beam import Runner
from infra.errors import ConfigError, MissingExtra
from infra.media.decoder import Decoder
from infra.media.interface import MODALITIES, DecodedMedia, MediaRef
from pipelines import stages
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.core.sample_media import decode_limits
from pipelines.core.settings import Measure
from tests import corpus

KeyPath = tuple[str | int, ...]
#: A setting and what it is set to.
Change = tuple[KeyPath, Any]

ROOT = Path(__file__).parents[2]
CLIP = {"model": f"local-dir:{ROOT / 'pipelines' / 'demo' / 'weights' / 'clip'}"}
#: More than any 64 bits hold, more than a float holds, and as much as a float holds.
HUGE, ENDLESS, LARGEST = 2**70, 10**400, 1.7976931348623157e308
TEXTS = ("", "no such", "a\0b", "..", "x" * 300)


# -- values at the ends of a schema ------------------------------------------------------------------------------------


def extremes_of(annotation: Any, metadata: Iterable[Any] = ()) -> list[Any]:
    """Values of a type at the ends of what its constraints allow; refused ones may be among them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return extremes_of(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, types.UnionType):
        return [value for argument in arguments for value in extremes_of(argument, metadata)]
    if origin is Literal:
        return list(arguments)
    if annotation is type(None):
        return [None]
    if annotation is bool:
        return [False, True]
    if annotation is int:
        return [*map(int, _find_limits(metadata, step=1))]
    if annotation is float:
        return [*map(float, _find_limits(metadata, step=5e-324))]
    if annotation is str:
        return list(TEXTS)
    if origin is tuple and arguments[-1] is ...:
        each = extremes_of(arguments[0])
        return [[], *([value] for value in each), *([value, value] for value in each[:1])]
    if origin is tuple:
        return [list(values) for values in zip(*(extremes_of(argument) for argument in arguments), strict=False)]
    if origin is not None and issubclass(origin, Mapping):
        return [{}]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [{}]
    return []


def _find_limits(metadata: Iterable[Any], step: float) -> list[Any]:
    """The lowest and the highest numbers that constraints allow; where there are none, and beyond them."""
    low: list[Any] = [-ENDLESS, -(2**64) + 1, -1, 0] if step == 1 else [-LARGEST, -1.0, 0.0]
    high: list[Any] = [2**31, 2**63 - 1, 2**63, 2**64 - 1, HUGE, ENDLESS] if step == 1 else [1e9, LARGEST]
    for bound in _flat(metadata):
        match bound:
            case annotated_types.Ge():
                low = [typing.cast(Any, bound.ge)]
            case annotated_types.Gt():
                low = [typing.cast(Any, bound.gt) + step]
            case annotated_types.Le():
                high = [typing.cast(Any, bound.le)]
            case annotated_types.Lt():
                high = [typing.cast(Any, bound.lt) - step]
    return [*low, *high]


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else (item,)


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """Settings classes inside a type."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_of(argument)]


def changes_of(model: type[BaseModel], at: KeyPath = ()) -> Iterator[Change]:
    """Every setting of a class, and of the classes in it, at its extremes."""
    for name, field in model.model_fields.items():
        for value in extremes_of(field.annotation, field.metadata):
            yield (*at, name), value
        for nested in models_of(field.annotation):
            is_list = get_origin(field.annotation) is tuple
            yield from changes_of(nested, (*at, name, 0) if is_list else (*at, name))


def change_settings(content: Mapping[str, Any], changes: Iterable[Change]) -> dict[str, Any]:
    """A config with some settings replaced."""
    content = copy.deepcopy(dict(content))
    for path, value in changes:
        section: Any = content
        for key, following in itertools.pairwise(path):
            if isinstance(section, list):
                section = section[typing.cast(int, key)]
                continue
            if section.get(key) is None:
                section[key] = [{}] if following == 0 else {}
            section = section[key]
        section[path[-1]] = value
    return content


# -- work over tiny inputs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A picture, a video and a text, and a config over them in which everything is switched on."""

    folder: Path
    config: Mapping[str, Any]

    def open(self, changes: Iterable[Change]) -> Run | None:
        """The run of a config with these changes; None where it is refused, by file, line and key."""
        content = change_settings(self.config, changes)
        content.setdefault("out", str(self.folder / "run"))
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        try:
            return stages.open_for_work("config.yaml", text=text, runner=Runner(), quiet=True)
        except MissingExtra as error:
            refusal: ConfigError | MissingExtra = error
        except ConfigError as error:
            refusal = error
        file, _, line = refusal.where.rpartition(":")
        assert file == "config.yaml" and int(line) > 0 and refusal.what, refusal
        return None


def write_world(folder: Path) -> World:
    for modality in ("image", "video", "text"):
        (folder / modality).mkdir()
    (folder / "image" / "a.jpg").write_bytes(corpus.image_bytes(corpus.picture(1)))
    corpus.write_clip(folder / "video" / "a.mp4", 1, frames=8)
    for number, modality in enumerate(("image", "video", "text")):
        (folder / modality / "a.txt").write_text(corpus.caption(number))
    (folder / "vocabulary.json").write_text(json.dumps(["morning", "a wooden fence"]))
    own: dict[str, Any] = {
        "ngrams": {"vocabulary": str(folder / "vocabulary.json")},
        "alignment": CLIP,
        "video_alignment": {**CLIP, "frames": 2},
        "overlay": {"frames": 1, "size": 160},
    }
    config = {
        "name": "own", "store": str(folder / "store"),
        "sources": [{"name": m, "path": str(folder / m), "modality": m} for m in ("image", "video", "text")],
        "measure": {**{name: own.get(name, {}) for name in ANNOTATORS}, "late": list(ANNOTATORS)},
        "duplicates": {"image": {}, "video": {}, "text": {}}, "resample": {}, "annotate": {},
    }  # fmt: skip
    return World(folder, config)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("settings"))


def section_of(content: Any, model: type[BaseModel], at: KeyPath) -> dict[str, Any]:
    """The settings of a class in a config."""
    for key in at:
        content = content[key]
    return {key: setting for key, setting in (content or {}).items() if key in model.model_fields}


def is_allowed(base: Mapping[str, Any], model: type[BaseModel], at: KeyPath, changes: Iterable[Change]) -> bool:
    """Whether the schema of a section allows these changes."""
    try:
        model.model_validate(section_of(change_settings(base, changes), model, at))
    except ValidationError:
        return False
    return True


def rounds_of(base: Mapping[str, Any], model: type[BaseModel], at: KeyPath) -> list[list[Change]]:
    """The changes to a section that its schema allows, in as few configs as possible: settings that do not exclude one
    another are changed together, but texts and lists, which may name files and annotators, one by one."""
    rounds: list[list[Change]] = []
    alone: list[list[Change]] = []
    for change in changes_of(model, at):
        if not is_allowed(base, model, at, [change]):
            continue
        if isinstance(change[1], str | list):
            alone.append([change])
            continue
        for together in rounds:
            paths = [path for path, _ in together]
            is_free = not any(path[: len(change[0])] == change[0][: len(path)] for path in paths)
            if is_free and is_allowed(base, model, at, [*together, change]):
                together.append(change)
                break
        else:
            rounds.append([change])
    assert rounds or alone or not model.model_fields
    return [*rounds, *alone]


def decode(annotator: Annotator, decoder: Decoder, folder: Path, modality: str) -> DecodedMedia | None:
    """The picture or the video as an annotator asks for it."""
    if modality == "text" or annotator.input == "text":
        return None
    name: Any = {"image": "a.jpg", "video": "a.mp4"}[modality]
    ref = MediaRef(str(folder / modality / name), kind="video" if modality == "video" else "image")
    if annotator.input == "header":
        return decoder.probe(ref)
    plans = {annotator.name: annotator.plan} if isinstance(annotator, FrameAnnotator) else {}
    observers = {annotator.name: annotator.observer()} if isinstance(annotator, StreamAnnotator) else {}
    return decoder.decode(ref, plans, observers)


def measure(annotator: Annotator, decoder: Decoder, folder: Path, modalities: Iterable[str]) -> pa.Table:
    """The measurements of a sample of each of these modalities."""
    rows = [modality for modality in modalities if modality in annotator.modalities]
    texts = pa.array([corpus.caption(i) for i in range(len(rows))], pa.string())
    chunk = pa.table({"key": pa.array(map(str, range(len(rows))), pa.string()),
                      "modality": pa.array(rows, pa.string()), "text": texts})  # fmt: skip
    for column in annotator.depends_on:
        chunk = chunk.append_column(column, texts)
    media = [decode(annotator, decoder, folder, modality) for modality in rows]
    return annotator.measure(chunk, media)


@pytest.mark.parametrize("name", ANNOTATORS.built_in)
def test_annotators_measure_with_any_accepted_settings(world: World, name: str) -> None:
    rounds = rounds_of(world.config, ANNOTATORS[name].settings_class(), ("measure", name))
    measured = 0
    with Decoder() as decoder:
        for changes in [[], *rounds]:
            if (run := world.open(changes)) is None:  # refused at the start, by file, line and key
                continue
            annotator = resolve(run).annotators[name]
            table = measure(annotator, decoder, world.folder, ("image", "video", "text"))
            assert table["error"].null_count == table.num_rows > 0, (changes, table["error"])
            assert measure(annotator, decoder, world.folder, ()).num_rows == 0
            measured += 1
    assert measured


def test_limits_of_measuring(world: World) -> None:
    for changes in rounds_of(world.config, Measure, ("measure",)):
        run = world.open(changes)
        if run is None:
            assert [path[-1] for path, _ in changes] == ["late"], changes
            continue
        resolved = resolve(run)
        with Decoder(decode_limits(resolved.measure)) as decoder:
            for modality in ("image", "video"):
                media = decode(resolved.annotators["fingerprint"], decoder, world.folder, modality)
                assert media is not None
                assert media.error is None or media.error.startswith(("too_large:", "watchdog:")), (changes, media)


def make_signals() -> pa.Table:
    """Measurements of a sample of each modality: usual ones, large ones, empty ones and none."""
    columns: dict[str, Any] = {
        "key": ["a", "b", "c", "d"], "modality": list(MODALITIES), "text": ["a b", "x", "", None],
        "error": pa.nulls(4, pa.string()),
    }  # fmt: skip
    for name in ANNOTATORS.built_in:
        for column, declared in ANNOTATORS[name].columns.items():
            numbers = [1, 2**30, 0, None]
            if pa.types.is_string(declared.type):
                columns[f"{name}.{column}"] = pa.array(["a b", "x" * 99, "", None])
            elif pa.types.is_integer(declared.type) or pa.types.is_floating(declared.type):
                columns[f"{name}.{column}"] = pa.array(numbers, declared.type)
            else:
                columns[f"{name}.{column}"] = pa.nulls(4, declared.type)
        columns[f"{name}.error"] = pa.nulls(4, pa.string())
    return pa.table(columns)


@pytest.mark.parametrize("name", FILTERS.built_in)
def test_filters_judge_with_any_accepted_settings(name: str) -> None:
    signals, kind = make_signals(), FILTERS[name]
    base = {name: {"min_score": 0.1} if "keep_top" in kind.settings_class().model_fields else {}}
    for changes in [[], *rounds_of(base, kind.settings_class(), (name,))]:
        judge = kind(kind.settings_class().model_validate(change_settings(base, changes)[name]))
        for table in (signals, signals.slice(0, 0)):
            if not judge.needs_min_score:
                assert len(judge.judge(table).passed) == table.num_rows, changes
