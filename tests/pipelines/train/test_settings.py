"""The config against its example and its page."""

from __future__ import annotations

import re
from pathlib import Path

from infra.config import read_document, validate
from pipelines.train.settings import (
    FREE,
    PATHS,
    Connector,
    LearningRates,
    Optimizer,
    Training,
    TrainStage,
    TrainStages,
    identity,
)

ROOT = Path(__file__).parents[3]


def test_the_example_is_valid() -> None:
    document = read_document(ROOT / "examples" / "train.yaml")
    config = validate(document, Training, document.content)
    assert config.stages.sft is not None and config.stages.sft.lr == LearningRates(language=2e-5)


def test_the_page_has_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "training.md").read_text("utf-8").split("\n## The config\n")[1]
    documented = {m[1]: m[2].strip("`") for m in re.finditer(r"^\| `([a-z_.]+)` \| ([^|]+?) \|", page, re.M)}
    defaults = {}
    kinds = {"": Training, "connector.": Connector, "optimizer.": Optimizer, "stages.stage.": TrainStage}
    for head, kind in kinds.items():
        for name, field in kind.model_fields.items():
            if name in ("connector", "optimizer", "stages", "lr"):
                continue
            default = "required" if field.is_required() else field.default
            if isinstance(default, tuple):
                default = list(default)
            defaults[head + name] = "null" if default is None else str(default)
    defaults |= {f"stages.stage.lr.{name}": "null" for name in LearningRates.model_fields}
    assert {key: default.lower() for key, default in documented.items()} == {
        key: default.lower() for key, default in defaults.items()
    }


def test_free_keys_are_not_part_of_a_trainings_identity() -> None:
    here = {"language_model": "a", "vision_encoders": ["b"], "out": "c"}
    there = {"language_model": "d", "vision_encoders": ["e"], "out": "f", "mixture": "g", "weights": "h"}
    moved = Training(**there, workers=3, stages=TrainStages(sft=TrainStage(mixture="i")))
    assert identity(Training(**here)) == identity(moved)
    assert identity(Training(**here)) != identity(Training(**here, seed=1))
    assert identity(Training(**here)) != identity(Training(**here, stages=TrainStages(sft=TrainStage(batch=3))))
    assert set(Training.model_fields) >= FREE | PATHS
