"""The faults and hard negatives that are planted in a demo world's texts."""

from __future__ import annotations

from typing import Any

from pipelines.demo import captions, documents
from pipelines.demo.planner import Planner


def plan_texts(planner: Planner) -> None:
    """Plan clean, copied, foreign and poor texts, and their hard negatives, in a shuffled order."""
    rows: list[tuple[str, dict[str, Any]]] = []
    counts, rng = planner.counts, planner.rng
    clean = [documents.paragraph(rng("text", str(i))) for i in range(counts["clean_text"])]
    rows += [(text, {}) for text in clean]
    for i in range(counts["copied_text"]):
        generator = rng("copied text", str(i))
        original = documents.paragraph(generator, 90, 150)
        exact = i % 3 == 0
        copy = original if exact else documents.nearly_same(original, generator)
        group = f"text-{i}"
        rows.append((original, {"group": group, "kind": "original"}))
        rows.append((copy, {"fault": "duplicates", "group": group, "kind": "exact" if exact else "near"}))
    for i in range(counts["quoting_text"]):
        text = documents.shares_a_sentence(clean[i], rng("quoting", str(i)))
        rows.append((text, {"hard": "duplicates", "kind": "quotes a sentence"}))
    for i in range(counts["language_text"]):
        language = captions.LANGUAGES[i % len(captions.LANGUAGES)]
        text = documents.other_document(language, rng("language text", str(i)))
        rows.append((text, {"fault": "language", "kind": language}))
    for i in range(counts["flavoured_text"]):
        text = documents.foreign_flavoured(rng("flavoured", str(i)))
        rows.append((text, {"hard": "language", "kind": "foreign words"}))
    for i in range(counts["poor_text"]):
        kind, text = documents.poor_document(rng("poor", str(i)))
        rows.append((text, {"fault": "quality", "kind": kind}))
    for i in range(counts["brief_text"]):
        rows.append((documents.brief_document(rng("brief text", str(i))), {"hard": "quality", "kind": "brief"}))
    planner.plan.texts = [rows[int(k)] for k in rng("order of texts").permutation(len(rows))]
