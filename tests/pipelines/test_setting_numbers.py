"""Every number in duplicates, resample, export, units, annotate, sources and recipes at 0, below it, huge and as NaN,
and something else in its place: refused before any work, by file, line and key, or the run comes to its end."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from filters.resample import ResampleSettings
from infra.beam import Runner
from infra.config import Config, Export, Source, UnitSettings
from infra.errors import ConfigError, StageError
from mixtures.plan.recipe import Recipe, read_recipe
from pipelines import stages
from pipelines.annotate.settings import AnnotateSettings
from pipelines.audit import audit
from pipelines.core.run import Run
from pipelines.decide.duplicates.settings import Duplicates
from pipelines.mix import mix
from tests import corpus, fake_server
from tests.mixtures import runs
from tests.pipelines.test_settings import KeyPath, change_settings, models_of
from tests.tiny import rows

NUMBERS = (0, -1, 1, 2**63, 2**70, 0.5, 1e-300, 1.7976931348623157e308, float("nan"), float("inf"))
#: Limits of settings of servers.
LIMITS = (0.1, 16, 32, 64, 999, 2048, 2**16, 2**17, 1e7)
OTHERS: tuple[Any, ...] = ("x", "", [], [1], {}, {"a": 1}, True)

ENDPOINT = {"url": "http://127.0.0.1:9/v1"}
#: Section of a config: its class, and what stands there beside the changed number.
SECTIONS: dict[str, tuple[type[BaseModel], KeyPath]] = {
    "duplicates": (Duplicates, ("duplicates",)),
    "resample": (ResampleSettings, ("resample",)),
    "export": (Export, ("export",)),
    "units": (UnitSettings, ("units",)),
    "annotate": (AnnotateSettings, ("annotate",)),
    "sources": (Source, ("sources", 0)),
    "seed": (Config, ()),
}
#: Settings of servers, which these runs do not have: only checked.
SERVED = ("endpoints", "captioner")


def is_number(annotation: Any) -> bool:
    """Whether a type takes numbers, as such or in a union."""
    if typing.get_origin(annotation) is typing.Annotated:
        return is_number(get_args(annotation)[0])
    return annotation in (int, float) or (
        typing.get_origin(annotation) not in (tuple, typing.Literal, Mapping)
        and not isinstance(annotation, type)
        and any(is_number(argument) for argument in get_args(annotation))
    )


def list_numbers(model: type[BaseModel], at: KeyPath) -> Iterator[KeyPath]:
    """The paths of all settings of a class that are numbers, and of the classes in it. Of a whole config, its own."""
    for name, field in model.model_fields.items():
        if is_number(field.annotation):
            yield (*at, name)
        if name == "kinds":  # shares by kind
            yield (*at, name, "captioning")
        for nested in models_of(field.annotation) if at else ():
            is_list = typing.get_origin(field.annotation) is tuple
            yield from list_numbers(nested, (*at, name, 0) if is_list else (*at, name))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A config over a picture, a video and two texts; only cheap things are measured."""
    folder = tmp_path_factory.mktemp("numbers")
    for modality in ("image", "video", "text"):
        (folder / modality).mkdir()
        (folder / modality / "a.txt").write_text(corpus.document(1) if modality == "text" else corpus.caption(1))
    (folder / "image" / "a.jpg").write_bytes(corpus.image_bytes(corpus.picture(1)))
    corpus.write_clip(folder / "video" / "a.mp4", 1, frames=8)
    (folder / "vocabulary.json").write_text(json.dumps(["morning", "a wooden fence"]))
    return {
        "name": "own", "store": str(folder / "store"), "out": str(folder / "run"),
        "sources": [{"name": m, "path": str(folder / m), "modality": m} for m in ("image", "video", "text")],
        "measure": {"ngrams": {"vocabulary": str(folder / "vocabulary.json")}}, "filters": {"caption": None},
        "duplicates": {"image": {}, "video": {}, "text": {}},
        "resample": {"modalities": ["image", "text"]}, "annotate": {"blind": {}},
    }  # fmt: skip


def open_config(content: Mapping[str, Any], path: KeyPath) -> Run | None:
    """The run of a config; None where it is refused by file, line and the key at `path`."""
    text = yaml.safe_dump(dict(content), sort_keys=False)
    try:
        return stages.open_for_work("config.yaml", text=text, runner=Runner(), quiet=True)
    except ConfigError as error:
        file, _, line = error.where.rpartition(":")
        assert file == "config.yaml" and int(line) > 0, (path, error.where)
        assert str(path[-1]) in error.what or path[-2:-1] == ("kinds",), (path, error.what)
        return None


@pytest.mark.parametrize("section", SECTIONS)
def test_numbers_that_are_none_are_refused_by_name(section: str, base: dict[str, Any]) -> None:
    model, at = SECTIONS[section]
    served = [
        (("annotate", "endpoints"), [ENDPOINT]),
        (("annotate", "captioner"), {"model": "m", "endpoints": [ENDPOINT]}),
    ]
    content = change_settings(base, served) if section == "annotate" else base
    paths = list(list_numbers(model, at))
    assert paths
    for path in paths:
        for number in (float("nan"), float("inf"), *OTHERS):
            refused = open_config(change_settings(content, [(path, number)]), path) is None
            assert refused or number in ("", "x", True, {}) or number == [], (path, number)


def list_accepted(base: Mapping[str, Any]) -> dict[KeyPath, list[Any]]:
    """The numbers that each setting takes; the others are refused by name."""
    accepted: dict[KeyPath, list[Any]] = {}
    for model, at in SECTIONS.values():
        for path in list_numbers(model, at):
            if not any(key in SERVED for key in path):
                numbers = [n for n in NUMBERS if open_config(change_settings(base, [(path, n)]), path) is not None]
                assert numbers, path
                accepted[path] = numbers
    return accepted


@pytest.mark.parametrize("end", [min, max])
def test_numbers_at_the_ends_are_refused_by_name_or_work(end: Any, base: dict[str, Any], tmp_path: Path) -> None:
    """A run with every setting at the lowest number that it takes, and one with the highest."""
    ends = {path: end(numbers) for path, numbers in list_accepted(base).items()}
    ends.pop(("resample", "t" if end is min else "tail_share"))  # they exclude one another
    run = open_config(change_settings({**base, "out": str(tmp_path / "run")}, ends.items()), ("",))
    assert run is not None
    stages.run_all(run)
    (report,) = audit.run(run.out, quiet=True)
    assert report.ok, (ends, report.findings)


def test_numbers_of_a_recipe_are_refused_by_name_or_give_a_mixture(tmp_path: Path) -> None:
    """Too little data for a recipe is said as such; otherwise the mixture passes its audit."""
    runs.write_run(tmp_path / "a", runs.rows_of({"video": 3, "image": 4, "text": 3}), per_shard=4)
    shares = {"shares": {"modality": {"text": 0.3}, "seconds": {"0..3": [0.0, 1.0]}}}
    for path in [*list_numbers(Recipe, ("recipe",)), ("recipe", "size"), ("recipe", "shares", "modality", "text")]:
        for number in (*NUMBERS, *OTHERS):
            content = change_settings({"recipe": shares}, [(path, number)])["recipe"]
            file = tmp_path / "recipe.yaml"
            file.write_text(yaml.safe_dump(content))
            try:
                recipe = read_recipe(str(file))
            except ConfigError as error:
                name, _, line = error.where.rpartition(":")
                assert name == str(file) and int(line) > 0 and str(path[-1]) in error.what, (path, number, error)
                continue
            out = tmp_path / "mix"
            try:
                mix.run([str(tmp_path / "a")], recipe, str(out), quiet=True, replace=True)
            except StageError as error:
                reasons = ("not enough data", "contradict", "permit at most")
                assert any(reason in error.what for reason in reasons), (path, number, error)
                continue
            (report,) = audit.run(str(out), quiet=True)
            assert report.ok, (path, number, report.findings)


@pytest.mark.parametrize("end", [min, max])
def test_numbers_of_servers_at_the_ends_are_refused_by_name_or_work(
    end: Any, base: dict[str, Any], tmp_path: Path
) -> None:
    """Dialogues by a server, with every setting at the lowest number that it takes, and with the highest."""
    with fake_server.running("--answer", "tests.answers:answer_from_evidence") as server:
        endpoints = [{"url": server.url}]
        served = {"model": "fake", "endpoints": endpoints, "captioner": {"model": "fake", "endpoints": endpoints},
                  "rationales": True, "blind": {}}  # fmt: skip
        content = {**base, "out": str(tmp_path / "run"), "store": str(tmp_path / "store"), "annotate": served}
        ends = {}
        for path in list_numbers(AnnotateSettings, ("annotate",)):
            numbers = [
                n for n in (*NUMBERS, *LIMITS) if open_config(change_settings(content, [(path, n)]), path) is not None
            ]
            assert numbers, path
            ends[path] = end(numbers)
        if end is max:  # fewer, as the pictures of all captions are decoded at once
            ends["annotate", "captioner", "max_captions"] = 10
        run = open_config(change_settings(content, ends.items()), ("",))
        assert run is not None
        stages.run_all(run)
        assert server.counts()["answered"]
    assert [row["outcome"] for row in rows(run, "dialogues")] == ["accepted"], ends
    (report,) = audit.run(run.out, quiet=True)
    assert report.ok, (ends, report.findings)
