"""One video's dialogue: its evidence is put to the generator, and what comes back is checked. And what of it is set.

Everything that decides is pure and lies in annotators; here stands only in which order a server is asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from annotators.dialogues import checks as checking
from annotators.dialogues import dialogue, rules_writer
from annotators.dialogues.dialogue import Dialogue
from annotators.dialogues.evidence import EvidenceSheet
from annotators.dialogues.kinds import DialogueKind
from infra.llm.requests import GAVE_UP, CachedClient, Completion, Request
from pipelines.annotate.settings import RULES, AnnotateSettings, BlindSettings


@dataclass
class CheckedTurn:
    """A turn on its way through the checks. blind: share of the blind answers that were right; None: not asked."""

    turn: dialogue.Turn
    reason: str | None
    blind: float | None = None


@dataclass
class DialogueDraft:
    """What became of one video. reason: set where the whole dialogue is rejected; retry: where a server's passing
    trouble is the cause, so that the next run asks again."""

    turns: list[CheckedTurn] = field(default_factory=list)
    reason: str | None = None
    retry: bool = False
    candidates: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def accepted(self) -> bool:
        return self.reason is None


async def write(
    client: CachedClient | None,
    settings: AnnotateSettings,
    kind: DialogueKind,
    sheet: EvidenceSheet,
    key: str,
    seed: int,
) -> DialogueDraft:
    """One dialogue of this kind about one video, every turn with its verdict. `client` None: by rule."""
    if not sheet.items:
        return DialogueDraft(reason="no_evidence: nothing is known about the video")
    if client is None:
        made = rules_writer.write(kind, sheet, seed, key, settings.checks)
        return _closed(_checked(made, sheet, kind, settings, DialogueDraft(candidates=1)))
    body = dialogue.build_generation_body(
        kind, sheet, settings.served_model, settings.sampling.model_dump(mode="json"), settings.candidates
    )
    answer = await client.complete(Request(body))
    written = DialogueDraft(candidates=max(len(answer.texts), 1))
    _count(written, answer)
    if answer.error is not None:
        return replace(written, reason=answer.error, retry=answer.error.startswith(GAVE_UP))
    best: DialogueDraft | None = None
    for text, finish in zip(answer.texts, answer.finish, strict=True):
        made_or_reason = dialogue.parse_dialogue(text, finish, kind)
        if isinstance(made_or_reason, str):
            found = replace(written, turns=[], reason=made_or_reason)
        else:
            found = _checked(made_or_reason, sheet, kind, settings, replace(written, turns=[]))
        if best is None or _worth(found) > _worth(best):
            best = found
    assert best is not None
    if best.reason is None and settings.rationales and kind.name == "reasoning":
        await _reason_out(client, settings, sheet, kind, best)
    if best.reason is None and settings.blind is not None:
        await _ask_blind(client, settings, settings.blind, best)
    return _closed(best)


def _checked(
    made: Dialogue, sheet: EvidenceSheet, kind: DialogueKind, settings: AnnotateSettings, written: DialogueDraft
) -> DialogueDraft:
    found = checking.check(made, sheet, kind, settings.checks)
    written.turns = [CheckedTurn(turn, reason) for turn, reason in zip(made.turns, found.turns, strict=True)]
    written.reason = found.whole
    return written


def _worth(written: DialogueDraft) -> tuple[bool, int]:
    return written.reason is None, sum(turned.reason is None for turned in written.turns)


def _closed(written: DialogueDraft) -> DialogueDraft:
    """A dialogue of which no turn is left is rejected for what stopped most of them."""
    if written.reason is None and all(turned.reason is not None for turned in written.turns):
        reasons = [str(turned.reason).partition(":")[0] for turned in written.turns]
        common = max(sorted(set(reasons)), key=reasons.count) if reasons else "empty"
        written.reason = f"no_turns: all were rejected, most as {common}"
    return written


def _count(written: DialogueDraft, answer: Completion) -> None:
    written.tokens_in += answer.tokens_in
    written.tokens_out += answer.tokens_out


async def _reason_out(
    client: CachedClient, settings: AnnotateSettings, sheet: EvidenceSheet, kind: DialogueKind, written: DialogueDraft
) -> None:
    """Puts a rationale before each answer; one that fails the checks is left away."""
    passed = [turned for turned in written.turns if turned.reason is None]
    answers = await asyncio.gather(
        *(client.complete(Request(dialogue.build_rationale_body(t.turn, sheet, settings.served_model))) for t in passed)
    )
    for turned, answer in zip(passed, answers, strict=True):
        _count(written, answer)
        if answer.error is None and answer.texts and answer.texts[0].strip():
            longer = dialogue.prepend_rationale(turned.turn, answer.texts[0])
            alone = Dialogue(kind.name, (longer,))
            verdict = checking.check(alone, sheet, kind, settings.checks)
            if verdict.whole is None and verdict.turns[0] is None:
                turned.turn = longer


async def _ask_blind(
    client: CachedClient, settings: AnnotateSettings, blind: BlindSettings, written: DialogueDraft
) -> None:
    asked = [t for t in written.turns if t.reason is None and not dialogue.asks_for_description(t.turn.question)]
    await asyncio.gather(*(_blind_turn(client, settings, blind, written, turned) for turned in asked))


async def _blind_turn(
    client: CachedClient, settings: AnnotateSettings, blind: BlindSettings, written: DialogueDraft, turned: CheckedTurn
) -> None:
    turn = turned.turn
    asked = dialogue.build_blind_body(
        turn.question, settings.served_model, blind.samples, temperature=blind.temperature, max_tokens=blind.max_tokens
    )
    answer = await client.complete(Request(asked))
    _count(written, answer)
    rights = [dialogue.match_short_answer(turn.answer, text) for text in answer.texts]
    open_ones = [i for i, right in enumerate(rights) if right is None] if blind.judge else []
    bodies = [
        dialogue.build_judge_body(turn.question, turn.answer, answer.texts[i], settings.served_model) for i in open_ones
    ]
    judged = await asyncio.gather(*(client.complete(Request(body)) for body in bodies))
    for i, verdict in zip(open_ones, judged, strict=True):
        _count(written, verdict)
        rights[i] = dialogue.parse_verdict(verdict.texts[0]) if verdict.texts else None
    errors = [one.error for one in (answer, *judged) if one.error is not None]
    if errors:  # not known to be hard: fail closed
        turned.reason = f"not_asked_blind: {errors[0]}"
        written.retry = written.retry or any(error.startswith(GAVE_UP) for error in errors)
        return
    turned.blind = dialogue.compute_blind_rate(rights)
    if dialogue.is_too_easy(turned.blind):
        known = [right for right in rights if right is not None]
        turned.reason = f"blind_answerable: {sum(known)} of {len(known)} answers without the video are right"


def row(
    key: str, kind: DialogueKind, sheet: EvidenceSheet, written: DialogueDraft, settings: AnnotateSettings
) -> dict[str, Any]:
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
        "evidence": sheet.to_rows(),
        "generator": settings.generator,
        "model": settings.served_model if by_server else "",
        "revision": settings.revision if by_server else "",
        "prompt": kind.prompt_hash if by_server else "",
        "schema": kind.schema_hash,
        "candidates": written.candidates,
        "tokens_in": written.tokens_in,
        "tokens_out": written.tokens_out,
    }
