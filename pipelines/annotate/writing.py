"""One video's dialogue: its evidence is put to the generator, and what comes back is checked. And what of it is set.

Everything that decides is pure and lies in annotators; here stands only in which order a server is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pydantic import Field, field_validator

from annotators.dialogues import checks as checking
from annotators.dialogues import dialogue, rules_writer
from annotators.dialogues import evidence as knowing
from annotators.dialogues.dialogue import Dialogue
from annotators.dialogues.evidence import Sheet
from annotators.dialogues.kinds import SHARES, Kind, kinds
from infra.config import Strict
from infra.llm.requests import GAVE_UP, Answer, Ask
from infra.llm.servers import Endpoint

#: The names that cards give the writer that needs no server and the other; what the other asks for by default.
RULES = "rules"
LLM = "llm"
MODEL = "meta-llama/Llama-3.1-70B-Instruct"


class Sampling(Strict):
    """How the generator draws (ours; Apollo publishes none). Always sent: servers have defaults of their own."""

    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=1024, gt=0)


class Blind(Strict):
    """Blind answerability: each question is asked `samples` times without any evidence; a turn that is answered right
    in more than half teaches nothing about the video (ApolloBench's rule for questions, here on training data).

    judge: whether answers that are too long to be compared by words go to the same model as a yes-or-no question.
    """

    samples: int = Field(default=5, ge=1, le=32)
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=96, gt=0)
    judge: bool = True


class Captioner(Strict):
    """A vision-language model behind the same kind of server, such as Qwen2-VL, which Apollo used.

    every_s: seconds of video a caption is about; frames: pictures of them sent; size: their longer side in pixels.
    All ours: Apollo publishes neither.
    """

    model: str
    endpoints: tuple[Endpoint, ...] = Field(min_length=1)
    every_s: float = Field(default=10.0, gt=0)
    frames: int = Field(default=4, ge=1, le=32)
    size: int = Field(default=448, ge=64, le=2048)
    max_captions: int = Field(default=24, ge=1)
    max_tokens: int = Field(default=160, gt=0)


class Annotate(Strict):
    """The dialogues of a run. Where no model is named and nothing serves one, the rule-based writer does it, and cards
    say so.

    model, revision: what is asked for, and which build of it, for the card; where something serves, the model is
        Llama-3.1-70B-Instruct by default, as Apollo's.
    offline: settings of vLLM's `LLM` in the worker itself, in place of servers.
    kinds: target shares over the data set, in any unit; default Apollo's (Fig. 7, read from the figure by inference).
    candidates: dialogues drawn for a video, of which the one that passes most checks is taken.
    rationales: whether answers of the kind reasoning get their reasons put before them.
    ocr_questions: whether images with text in them get questions about it too.
    cache: the file of answers that were paid for; by default requests.sqlite in the store.
    tries, timeout_s, patience_s: of one request; of one try; of all endpoints together before the job stops.
    price: of a GPU-hour, and gpus: behind all endpoints, for the summary's cost. Defaults are ours.
    """

    model: str | None = None
    revision: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    offline: Mapping[str, Any] | None = None
    cache: str | None = None
    kinds: Mapping[str, float] = Field(default_factory=lambda: dict(SHARES))
    evidence: knowing.Settings = knowing.Settings()
    checks: checking.Settings = checking.Settings()
    sampling: Sampling = Sampling()
    candidates: int = Field(default=1, ge=1, le=16)
    blind: Blind | None = Blind()
    captioner: Captioner | None = None
    rationales: bool = False
    ocr_questions: bool = False
    timeout_s: float = Field(default=600.0, gt=0)
    patience_s: float = Field(default=900.0, gt=0)
    tries: int = Field(default=6, ge=1)
    price_per_gpu_hour: float | None = Field(default=None, ge=0)
    gpus: int = Field(default=1, ge=1)

    @field_validator("kinds")
    @classmethod
    def _kinds(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        known = kinds()
        for name, share in value.items():
            if name not in known:
                raise ValueError(f"there is no kind {name!r}; known: {', '.join(known)}")
            if share < 0:
                raise ValueError(f"the share of {name} is negative")
        if not sum(value.values()) > 0:
            raise ValueError("no kind has a share")
        return value

    @property
    def asked(self) -> str:
        """The model that requests name."""
        return self.model or MODEL

    @property
    def generator(self) -> str:
        """Who writes: a language model, or the rules. How its answers are fetched is no part of what they are."""
        return LLM if self.model or self.endpoints or self.offline is not None else RULES


class Engine(Protocol):
    """Whoever answers: `infra.llm.requests.Desk`."""

    async def ask(self, ask: Ask) -> Answer: ...


@dataclass
class Turned:
    """A turn on its way through the checks. blind: share of the blind answers that were right; None: not asked."""

    turn: dialogue.Turn
    reason: str | None
    blind: float | None = None


@dataclass
class Written:
    """What became of one video. reason: set where the whole dialogue is rejected; retry: where a server's passing
    trouble is the cause, so that the next run asks again."""

    turns: list[Turned] = field(default_factory=list)
    reason: str | None = None
    retry: bool = False
    candidates: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def accepted(self) -> bool:
        return self.reason is None


async def write(engine: Engine | None, settings: Annotate, kind: Kind, sheet: Sheet, key: str, seed: int) -> Written:
    """One dialogue of this kind about one video, every turn with its verdict. `engine` None: by rule."""
    if not sheet.items:
        return Written(reason="no_evidence: nothing is known about the video")
    if engine is None:
        made = rules_writer.write(kind, sheet, seed, key, settings.checks)
        return _closed(_checked(made, sheet, kind, settings, Written(candidates=1)))
    body = dialogue.generation_body(
        kind, sheet, settings.asked, settings.sampling.model_dump(mode="json"), settings.candidates
    )
    answer = await engine.ask(Ask(body))
    written = Written(candidates=max(len(answer.texts), 1))
    _count(written, answer)
    if answer.error is not None:
        return replace(written, reason=answer.error, retry=answer.error.startswith(GAVE_UP))
    best: Written | None = None
    for text, finish in zip(answer.texts, answer.finish, strict=True):
        made_or_reason = dialogue.read(text, finish, kind)
        if isinstance(made_or_reason, str):
            found = replace(written, turns=[], reason=made_or_reason)
        else:
            found = _checked(made_or_reason, sheet, kind, settings, replace(written, turns=[]))
        if best is None or _worth(found) > _worth(best):
            best = found
    assert best is not None
    if best.reason is None and settings.rationales and kind.name == "reasoning":
        await _reason_out(engine, settings, sheet, kind, best)
    if best.reason is None and settings.blind is not None:
        await _ask_blind(engine, settings, settings.blind, best)
    return _closed(best)


def _checked(made: Dialogue, sheet: Sheet, kind: Kind, settings: Annotate, written: Written) -> Written:
    found = checking.check(made, sheet, kind, settings.checks)
    written.turns = [Turned(turn, reason) for turn, reason in zip(made.turns, found.turns, strict=True)]
    written.reason = found.whole
    return written


def _worth(written: Written) -> tuple[bool, int]:
    return written.reason is None, sum(turned.reason is None for turned in written.turns)


def _closed(written: Written) -> Written:
    """A dialogue of which no turn is left is rejected for what stopped most of them."""
    if written.reason is None and all(turned.reason is not None for turned in written.turns):
        reasons = [str(turned.reason).partition(":")[0] for turned in written.turns]
        common = max(sorted(set(reasons)), key=reasons.count) if reasons else "empty"
        written.reason = f"no_turns: all were rejected, most as {common}"
    return written


def _count(written: Written, answer: Answer) -> None:
    written.tokens_in += answer.tokens_in
    written.tokens_out += answer.tokens_out


async def _reason_out(engine: Engine, settings: Annotate, sheet: Sheet, kind: Kind, written: Written) -> None:
    """Puts a rationale before each answer; one that fails the checks is left away."""
    passed = [turned for turned in written.turns if turned.reason is None]
    answers = await asyncio.gather(
        *(engine.ask(Ask(dialogue.rationale_body(t.turn, sheet, settings.asked))) for t in passed)
    )
    for turned, answer in zip(passed, answers, strict=True):
        _count(written, answer)
        if answer.error is None and answer.texts and answer.texts[0].strip():
            longer = dialogue.with_rationale(turned.turn, answer.texts[0])
            alone = Dialogue(kind.name, (longer,))
            verdict = checking.check(alone, sheet, kind, settings.checks)
            if verdict.whole is None and verdict.turns[0] is None:
                turned.turn = longer


async def _ask_blind(engine: Engine, settings: Annotate, blind: Blind, written: Written) -> None:
    asked = [t for t in written.turns if t.reason is None and not dialogue.asks_for_description(t.turn.question)]
    await asyncio.gather(*(_blind_turn(engine, settings, blind, written, turned) for turned in asked))


async def _blind_turn(engine: Engine, settings: Annotate, blind: Blind, written: Written, turned: Turned) -> None:
    turn = turned.turn
    asked = dialogue.blind_body(
        turn.question, settings.asked, blind.samples, temperature=blind.temperature, max_tokens=blind.max_tokens
    )
    answer = await engine.ask(Ask(asked))
    _count(written, answer)
    rights = [dialogue.short_match(turn.answer, text) for text in answer.texts]
    open_ones = [i for i, right in enumerate(rights) if right is None] if blind.judge else []
    bodies = [dialogue.judge_body(turn.question, turn.answer, answer.texts[i], settings.asked) for i in open_ones]
    judged = await asyncio.gather(*(engine.ask(Ask(body)) for body in bodies))
    for i, verdict in zip(open_ones, judged, strict=True):
        _count(written, verdict)
        rights[i] = dialogue.read_verdict(verdict.texts[0]) if verdict.texts else None
    errors = [one.error for one in (answer, *judged) if one.error is not None]
    if errors:  # not known to be hard: fail closed
        turned.reason = f"not_asked_blind: {errors[0]}"
        written.retry = written.retry or any(error.startswith(GAVE_UP) for error in errors)
        return
    turned.blind = dialogue.blind_rate(rights)
    if dialogue.too_easy(turned.blind):
        known = [right for right in rights if right is not None]
        turned.reason = f"blind_answerable: {sum(known)} of {len(known)} answers without the video are right"


def row(key: str, kind: Kind, sheet: Sheet, written: Written, settings: Annotate) -> dict[str, Any]:
    """A row of infra.tables.DIALOGUES."""
    by_server = settings.generator != RULES
    return {
        "key": key,
        "kind": kind.name,
        "outcome": "accepted" if written.accepted else "rejected",
        "reason": written.reason,
        "turns": [
            {
                "question": turned.turn.question,
                "answer": turned.turn.answer,
                "evidence": list(turned.turn.evidence),
                "start_s": turned.turn.start_s,
                "end_s": turned.turn.end_s,
                "outcome": "accepted" if written.accepted and turned.reason is None else "rejected",
                "reason": turned.reason if turned.reason is not None else written.reason,
                "blind_rate": turned.blind,
            }
            for turned in written.turns
        ],
        "evidence": sheet.rows(),
        "generator": settings.generator,
        "model": settings.asked if by_server else "",
        "revision": settings.revision if by_server else "",
        "prompt": kind.prompt_hash if by_server else "",
        "schema": kind.schema_hash,
        "candidates": written.candidates,
        "tokens_in": written.tokens_in,
        "tokens_out": written.tokens_out,
    }


def writer(settings: Annotate | None) -> Any:
    """Who wrote dialogues, for a card: a model with its prompts, the rules, or nobody."""
    if settings is None:
        return "none: captions and the sources' own conversations only"
    if settings.generator == RULES:
        return "rules: written by rule from the evidence, by no language model"
    known = kinds()
    return {
        "generator": settings.generator,
        "model": settings.asked,
        "revision": settings.revision or "not stated",
        "shares": dict(settings.kinds),
        "prompts": {name: {"version": known[name].version, "prompt": known[name].prompt_hash,
                           "schema": known[name].schema_hash} for name in sorted(settings.kinds)},
        "sampling": settings.sampling.model_dump(mode="json"),
        "candidates": settings.candidates,
        "blind": None if settings.blind is None else settings.blind.model_dump(mode="json"),
        "captioner": None if settings.captioner is None else settings.captioner.model,
    }  # fmt: skip
