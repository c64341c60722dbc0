from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from annotators.dialogues import dialogue, evidence
from annotators.dialogues.kinds import IMAGE_TEXT, load_kind
from infra.hashing import fingerprint
from mixtures.cards import croissant
from pipelines.annotate import settings
from pipelines.annotate.settings import AnnotateSettings, describe_generator

EVERYTHING: dict[str, Any] = {
    "model": "writer",
    "endpoints": [{"url": "http://127.0.0.1:1/v1"}],
    "rationales": True,
    "ocr_questions": True,
    "captioner": {"model": "seer", "endpoints": [{"url": "http://127.0.0.1:1/v1"}]},
}

#: Function that builds a request -> its prompt's hash. Every such function must be here, and on the card.
STEPS: dict[Callable[..., Any], str] = {
    evidence.build_caption_body: fingerprint(evidence.CAPTION),
    dialogue.build_generation_body: load_kind(IMAGE_TEXT).prompt_hash,
    dialogue.build_rationale_body: fingerprint(dialogue.RATIONALE),
    dialogue.build_blind_body: fingerprint(dialogue.BLIND),
    dialogue.build_judge_body: fingerprint(dialogue.JUDGE),
}


def test_a_card_names_the_prompt_of_every_function_that_builds_a_request() -> None:
    builders = {
        getattr(module, name)
        for module in (dialogue, evidence)
        for name in vars(module)
        if name.startswith("build_") and name.endswith("_body")
    }
    assert builders == set(STEPS)
    card = describe_generator(AnnotateSettings(**EVERYTHING))
    named = {entry["prompt"] for entry in (*card["prompts"].values(), *card["steps"].values())}
    assert set(STEPS.values()) <= named
    assert {load_kind(name).prompt_hash for name in settings.SHARES} <= named
    described = " ".join(croissant._describe_annotation(croissant.History({"dialogues": card}, True)))
    assert all(step["prompt"] in described and step["model"] in described for step in card["steps"].values())


@pytest.mark.parametrize(
    ("without", "step"),
    [({"rationales": False}, "rationale"), ({"blind": None}, "blind"), ({"blind": {"judge": False}}, "judge"),
     ({"captioner": None}, "captions as evidence")],
)  # fmt: skip
def test_a_step_that_does_not_run_is_not_named(without: dict[str, Any], step: str) -> None:
    with_all = describe_generator(AnnotateSettings(**EVERYTHING))
    assert step in with_all["steps"]
    assert step not in describe_generator(AnnotateSettings(**{**EVERYTHING, **without}))["steps"]


def test_questions_about_text_are_named_where_they_are_asked() -> None:
    assert IMAGE_TEXT in describe_generator(AnnotateSettings(**EVERYTHING))["prompts"]
    assert IMAGE_TEXT not in describe_generator(AnnotateSettings(**{**EVERYTHING, "ocr_questions": False}))["prompts"]


def test_rules_over_a_models_captions_name_that_model() -> None:
    card = describe_generator(AnnotateSettings(captioner=EVERYTHING["captioner"]))
    assert "by rule" in card["generator"] and card["captioner"] == "seer"
    assert card["steps"]["captions as evidence"]["model"] == "seer"
    assert "seer" in " ".join(croissant._describe_annotation(croissant.History({"dialogues": card}, True)))
    assert any("seer" in tool for tool in croissant._list_tools(croissant.History({"dialogues": card}, True)))
