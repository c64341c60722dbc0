"""Write one video's dialogue: send its evidence to the generator and check the completion, turn by turn.

Prompts, parsing and checks are pure functions in annotators/dialogues; this module decides the order of requests.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from annotators.dialogues import dialogue, rules_writer
from annotators.dialogues.checks import check_dialogue
from annotators.dialogues.dialogue import Dialogue, Turn
from annotators.dialogues.evidence import EvidenceSheet
from annotators.dialogues.kinds import DialogueKind
from infra.llm.requests import GAVE_UP, CachedClient, Completion, Request
from pipelines.annotate.settings import RULES, AnnotateSettings, BlindSettings


@dataclass
class CheckedTurn:
    """A turn with its verdict. reason: why it is rejected, None if it passes; blind_rate: share (0 to 1) of the blind
    answers that are right, None if it was not asked blind."""

    turn: Turn
    reason: str | None
    blind_rate: float | None = None


@dataclass
class DialogueDraft:
    """One video's dialogue. reason: set if the whole dialogue is rejected; retry: whether a transient fault of a server
    is the cause, so that the next run requests it again."""

    turns: list[CheckedTurn] = field(default_factory=list)
    reason: str | None = None
    retry: bool = False
    candidates: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def accepted(self) -> bool:
        return self.reason is None

    @property
    def passed(self) -> list[CheckedTurn]:
        return [checked for checked in self.turns if checked.reason is None]

    def add_tokens(self, completion: Completion) -> None:
        self.tokens_in += completion.tokens_in
        self.tokens_out += completion.tokens_out


async def write_dialogue(
    client: CachedClient | None,
    settings: AnnotateSettings,
    kind: DialogueKind,
    sheet: EvidenceSheet,
    key: str,
    seed: int,
) -> DialogueDraft:
    """Write one dialogue of this kind about one video, every turn with its verdict. `client` None: by rule."""
    if not sheet.items:
        return DialogueDraft(reason="no_evidence: nothing is known about the video")
    if client is None:
        by_rule = rules_writer.write(kind, sheet, seed, key, settings.checks)
        return _reject_empty(_check(by_rule, sheet, kind, settings, DialogueDraft(candidates=1)))
    body = dialogue.build_generation_body(
        kind, sheet, settings.served_model, settings.sampling.model_dump(mode="json"), settings.candidates
    )
    completion = await client.complete(Request(body))
    draft = DialogueDraft(candidates=max(len(completion.texts), 1))
    draft.add_tokens(completion)
    if completion.error is not None:
        return replace(draft, reason=completion.error, retry=completion.error.startswith(GAVE_UP))
    candidates = []
    for text, finish in zip(completion.texts, completion.finish, strict=True):
        parsed = dialogue.parse_dialogue(text, finish, kind)
        if isinstance(parsed, str):
            candidates.append(replace(draft, turns=[], reason=parsed))
        else:
            candidates.append(_check(parsed, sheet, kind, settings, replace(draft, turns=[])))
    best = max(candidates, key=lambda candidate: (candidate.accepted, len(candidate.passed)))
    if best.accepted and settings.rationales and kind.name == "reasoning":
        await _add_rationales(client, settings, sheet, kind, best)
    if best.accepted and settings.blind is not None:
        turns = [t for t in best.passed if not dialogue.asks_for_description(t.turn.question)]
        await asyncio.gather(*(_ask_blind(client, settings, settings.blind, best, checked) for checked in turns))
    return _reject_empty(best)


def _check(
    candidate: Dialogue, sheet: EvidenceSheet, kind: DialogueKind, settings: AnnotateSettings, draft: DialogueDraft
) -> DialogueDraft:
    findings = check_dialogue(candidate, sheet, kind, settings.checks)
    draft.turns = [CheckedTurn(turn, reason) for turn, reason in zip(candidate.turns, findings.turns, strict=True)]
    draft.reason = findings.whole
    return draft


def _reject_empty(draft: DialogueDraft) -> DialogueDraft:
    """Reject a dialogue without a turn that passes, for the most common reason of its turns."""
    if draft.accepted and not draft.passed:
        reasons = [str(checked.reason).partition(":")[0] for checked in draft.turns]
        common = max(sorted(set(reasons)), key=reasons.count) if reasons else "empty"
        draft.reason = f"no_turns: all were rejected, most as {common}"
    return draft


async def _add_rationales(
    client: CachedClient, settings: AnnotateSettings, sheet: EvidenceSheet, kind: DialogueKind, draft: DialogueDraft
) -> None:
    """Put a rationale before each answer, unless it fails the checks."""
    passed = draft.passed
    bodies = [dialogue.build_rationale_body(checked.turn, sheet, settings.served_model) for checked in passed]
    completions = await asyncio.gather(*(client.complete(Request(body)) for body in bodies))
    for checked, completion in zip(passed, completions, strict=True):
        draft.add_tokens(completion)
        if completion.error is None and completion.texts and completion.texts[0].strip():
            turn = dialogue.prepend_rationale(checked.turn, completion.texts[0])
            if check_dialogue(Dialogue(kind.name, (turn,)), sheet, kind, settings.checks).passed:
                checked.turn = turn


async def _ask_blind(
    client: CachedClient, settings: AnnotateSettings, blind: BlindSettings, draft: DialogueDraft, checked: CheckedTurn
) -> None:
    """Ask a turn's question without evidence; reject the turn if most of the answers are right."""
    question, reference = checked.turn.question, checked.turn.answer
    body = dialogue.build_blind_body(
        question, settings.served_model, blind.samples, temperature=blind.temperature, max_tokens=blind.max_tokens
    )
    answers = await client.complete(Request(body))
    draft.add_tokens(answers)
    verdicts = [dialogue.match_short_answer(reference, text) for text in answers.texts]
    undecided = [i for i, verdict in enumerate(verdicts) if verdict is None] if blind.judge else []
    bodies = [
        dialogue.build_judge_body(question, reference, answers.texts[i], settings.served_model) for i in undecided
    ]
    judgements = await asyncio.gather(*(client.complete(Request(body)) for body in bodies))
    for i, judgement in zip(undecided, judgements, strict=True):
        draft.add_tokens(judgement)
        verdicts[i] = dialogue.parse_verdict(judgement.texts[0]) if judgement.texts else None
    errors = [completion.error for completion in (answers, *judgements) if completion.error is not None]
    if errors:  # a turn whose blind answerability is unknown never passes
        checked.reason = f"not_asked_blind: {errors[0]}"
        draft.retry = draft.retry or any(error.startswith(GAVE_UP) for error in errors)
        return
    checked.blind_rate = dialogue.compute_blind_rate(verdicts)
    if dialogue.is_too_easy(checked.blind_rate):
        decided = [verdict for verdict in verdicts if verdict is not None]
        checked.reason = f"blind_answerable: {sum(decided)} of {len(decided)} answers without the video are right"


def build_row(
    key: str, kind: DialogueKind, sheet: EvidenceSheet, draft: DialogueDraft, settings: AnnotateSettings
) -> dict[str, Any]:
    """Build a row of infra.tables.DIALOGUES."""
    by_model = settings.generator != RULES
    return {
        "key": key,
        "kind": kind.name,
        "outcome": "accepted" if draft.accepted else "rejected",
        "reason": draft.reason,
        "turns": [
            {
                "question": checked.turn.question,
                "answer": checked.turn.answer,
                "evidence": list(checked.turn.evidence),
                "start_s": checked.turn.start_s,
                "end_s": checked.turn.end_s,
                "outcome": "accepted" if draft.accepted and checked.reason is None else "rejected",
                "reason": checked.reason if checked.reason is not None else draft.reason,
                "blind_rate": checked.blind_rate,
            }
            for checked in draft.turns
        ],
        "evidence": sheet.to_rows(),
        "generator": settings.generator,
        "model": settings.served_model if by_model else "",
        "revision": settings.revision if by_model else "",
        "prompt": kind.prompt_hash if by_model else "",
        "schema": kind.schema_hash,
        "candidates": draft.candidates,
        "tokens_in": draft.tokens_in,
        "tokens_out": draft.tokens_out,
    }
