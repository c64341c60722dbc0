"""Settings of the stage `annotate`, and the description of a dialogue generator for cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from annotators.dialogues import dialogue, evidence
from annotators.dialogues.checks import CheckSettings
from annotators.dialogues.evidence import EvidenceSettings
from annotators.dialogues.kinds import IMAGE_TEXT, SHARES, load_kind, load_kinds
from infra.config import Strict
from infra.hashing import fingerprint
from infra.llm.servers import Endpoint

#: Names of the generators on cards: the rule-based writer, which needs no server, and a language model.
RULES = "rules"
LLM = "llm"
#: The model that is requested by default.
DEFAULT_MODEL = "meta-llama/Llama-3.1-70B-Instruct"
#: Limits, ours: tokens of an answer, the whole context of Llama 3.1; seconds of one try, in less of which no server
#: answers, and of any wait; bytes of the pictures of a video that go to the captioner, which are decoded at once.
MAX_ANSWER_TOKENS = 2**17
MIN_TIMEOUT_S, MAX_WAIT_S = 1.0, 1e7
MAX_PICTURE_BYTES = 2**32


class SamplingSettings(Strict):
    """Sampling of the generator (ours; Apollo publishes none). Always sent, because servers have their own defaults."""

    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=1024, gt=0, le=MAX_ANSWER_TOKENS)


class BlindSettings(Strict):
    """Blind answerability: each question is asked `samples` times without any evidence; a turn that is answered
    correctly in more than half of them teaches nothing about the video (ApolloBench's rule for evaluation questions,
    here on training data).

    judge: whether answers that are too long to be compared by words are judged by the same model (yes or no).
    """

    samples: int = Field(default=5, ge=1, le=32)
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=96, gt=0, le=MAX_ANSWER_TOKENS)
    judge: bool = True


class CaptionerSettings(Strict):
    """A vision-language model behind the same kind of server, such as Qwen2-VL, which Apollo used.

    every_s: seconds of video per caption; frames: frames sent for each; size: their longer side in pixels.
    All ours: Apollo publishes none.
    """

    model: str
    endpoints: tuple[Endpoint, ...] = Field(min_length=1)
    every_s: float = Field(default=10.0, ge=0.1)
    frames: int = Field(default=4, ge=1, le=32)
    size: int = Field(default=448, ge=64, le=2048)
    max_captions: int = Field(default=24, ge=1, le=999)
    max_tokens: int = Field(default=160, gt=0, le=MAX_ANSWER_TOKENS)

    @model_validator(mode="after")
    def _check_pictures(self) -> CaptionerSettings:
        size = 3 * self.size**2 * self.frames * self.max_captions
        if size > MAX_PICTURE_BYTES:
            raise ValueError(
                f"max_captions × frames pictures of this size need up to {size / 2**30:,.1f} GiB, and at most "
                f"{MAX_PICTURE_BYTES / 2**30:,.0f} GiB are decoded at once"
            )
        return self


class AnnotateSettings(Strict):
    """The dialogues of a run. If no model is named and nothing serves one, the rule-based writer makes them, and cards
    say so.

    model, revision: the model to request, and its build, for the card; with a server, the default is
        Llama-3.1-70B-Instruct, as Apollo's.
    endpoints: the servers. offline: settings of vLLM's `LLM` in the worker itself, instead of servers.
    kinds: target shares over the data set, in any unit; default Apollo's (Fig. 7, read from the figure by inference).
    candidates: dialogues generated per video; the one with the most turns that pass is used.
    rationales: whether answers of the kind reasoning are preceded by a rationale.
    ocr_questions: whether images that contain text get questions about it too.
    cache: the file of the request cache; by default requests.sqlite in the store.
    tries, timeout_s, patience_s: per request; of one try; without any answer before the job stops.
    price_per_gpu_hour, gpus: cost of a GPU-hour, and GPUs behind all endpoints, for the summary. Defaults are ours.
    """

    model: str | None = None
    revision: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    offline: Mapping[str, Any] | None = None
    cache: str | None = None
    kinds: Mapping[str, float] = Field(default_factory=lambda: dict(SHARES))
    evidence: EvidenceSettings = EvidenceSettings()
    checks: CheckSettings = CheckSettings()
    sampling: SamplingSettings = SamplingSettings()
    candidates: int = Field(default=1, ge=1, le=16)
    blind: BlindSettings | None = BlindSettings()
    captioner: CaptionerSettings | None = None
    rationales: bool = False
    ocr_questions: bool = False
    timeout_s: float = Field(default=600.0, ge=MIN_TIMEOUT_S, le=MAX_WAIT_S)
    patience_s: float = Field(default=900.0, gt=0, le=MAX_WAIT_S)
    tries: int = Field(default=6, ge=1)
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    gpus: int = Field(default=1, ge=1)

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, shares: Mapping[str, float]) -> Mapping[str, float]:
        for name, share in shares.items():
            if name not in load_kinds():
                raise ValueError(f"there is no kind {name!r}; the kinds are {', '.join(load_kinds())}")
            if share < 0:
                raise ValueError(f"the share of {name} is negative")
        if not sum(shares.values()) > 0:
            raise ValueError("no kind has a positive share")
        return shares

    @property
    def served_model(self) -> str:
        """The model that requests name."""
        return self.model or DEFAULT_MODEL

    @property
    def generator(self) -> str:
        """LLM or RULES. How completions are obtained (servers, batch, offline) is not part of it."""
        return LLM if self.model or self.endpoints or self.offline is not None else RULES


def describe_generator(settings: AnnotateSettings | None) -> Any:
    """Return the writer of dialogues for a card: a model, the rules, or none, with every prompt that is sent."""
    if settings is None:
        return "none: captions and the sources' own conversations only"
    captioner = {} if settings.captioner is None else {"captioner": settings.captioner.model}
    steps = _list_steps(settings)
    if settings.generator == RULES:
        by_rule = "rules: written by rule from the evidence, by no language model"
        return {"generator": by_rule, **captioner, "steps": steps} if captioner else by_rule
    kinds = [load_kind(name) for name in (*settings.kinds, *([IMAGE_TEXT] if settings.ocr_questions else []))]
    return {
        "generator": settings.generator,
        "model": settings.served_model,
        "revision": settings.revision or "not stated",
        "shares": dict(settings.kinds),
        "prompts": {kind.name: {"version": kind.version, "prompt": kind.prompt_hash, "schema": kind.schema_hash}
                    for kind in sorted(kinds, key=lambda kind: kind.name)},
        "steps": steps,
        "sampling": settings.sampling.model_dump(mode="json"),
        "candidates": settings.candidates,
        "blind": None if settings.blind is None else settings.blind.model_dump(mode="json"),
        "captioner": None if settings.captioner is None else settings.captioner.model,
    }  # fmt: skip


def _list_steps(settings: AnnotateSettings) -> dict[str, dict[str, str]]:
    """List the steps besides the kinds that send a prompt, with its hash and the model that answers."""
    hashes, steps = dialogue.hash_prompts(), {}
    if settings.captioner is not None:
        prompt = fingerprint(evidence.CAPTION)
        steps["captions as evidence"] = {"model": settings.captioner.model, "prompt": prompt}
    if settings.generator == RULES:
        return steps
    is_asked = {"rationale": settings.rationales, "blind": settings.blind is not None,
                "judge": settings.blind is not None and settings.blind.judge}  # fmt: skip
    for name, prompt in hashes.items():
        if is_asked[name]:
            steps[name] = {"model": settings.served_model, "prompt": prompt}
    return steps
