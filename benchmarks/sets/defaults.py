"""Shares that the filters drop by their defaults of sets that people made and that nobody would call bad.

captions: COCO's, MSR-VTT's, Multi30k's and IIW's by people, MiniGPT's by a model, alt-texts of the web, each by the
filters language and quality. documents: FiQA's answers in a forum, and long texts, by the rules for documents.
images: COCO's photographs, and all images of the corpus, of which most are test files of libraries, by facts and blank.
clips: ordinary ones (of data sets of videos and demos of models), and the test files of libraries, by facts, blank,
overlay and motion; a video that cannot be measured counts as dropped by none.

All rows are judged, also those on which thresholds were chosen. Filters are applied one by one, so a sample may be
counted by several. Alignment is not measured: it needs weights that are downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from benchmarks.sets.text import HUMAN, judge_texts, read_documents, read_rows, share
from pipelines import api

#: Names of the corpus's ordinary clips begin with these: all other videos are test files of libraries.
ORDINARY = ("panda70m", "askanything", "cogvideo", "internvid", "llavanext", "mmaction_demo", "mmaction_part")


def measure_defaults(corpus: Path, scratch: Path) -> dict[str, float | int]:
    """default_SET_FILTER_dropped, and default_SET_size."""
    del scratch
    figures: dict[str, float | int] = {}
    for name, verdicts in iterate_verdicts(corpus):
        size = max((table.num_rows for table in verdicts.values()), default=0)
        figures[f"default_{name}_size"] = size
        for filter_, table in verdicts.items():
            dropped = [outcome == "dropped" for outcome in table["outcome"].to_pylist()]
            figures[f"default_{name}_{filter_}_dropped"] = share(dropped)
    return figures


def iterate_verdicts(corpus: Path) -> Iterator[tuple[str, dict[str, pa.Table]]]:
    """Each set's name with its verdicts by filter."""
    for name in (*HUMAN, "modelcaptions_minigpt_1500", "alttext_web_a"):
        texts = [row["text"] for row in read_rows(corpus, name) if row.get("lang", "en") == "en"]
        yield name, judge_by_each(texts, "image")
    fiqa = [answer for row in read_rows(corpus, "longform_fiqa_150") for answer in row["documents"]]
    yield "documents_fiqa", judge_by_each(fiqa, "text")
    yield "documents_long", judge_by_each(read_documents(corpus)[len(fiqa) :], "text")
    images, videos = (sorted(path for path in (corpus / kind).glob("*")) for kind in ("images", "videos"))
    photographs = [path for path in images if path.name.startswith("coco")]
    yield "images_photographs", judge_media(photographs, ["facts", "blank"])
    yield "images_all", judge_media(images, ["facts", "blank"])
    ordinary = [path for path in videos if path.name.startswith(ORDINARY)]
    filters = ["facts", "blank", "overlay", "motion"]
    yield "clips_ordinary", judge_media(ordinary, filters)
    yield "clips_test_files", judge_media(sorted({*videos} - {*ordinary}), filters)


def judge_by_each(texts: Sequence[str], modality: str) -> dict[str, pa.Table]:
    return {name: judge_texts(texts, [name], modality) for name in ("language", "quality")} if texts else {}


def judge_media(paths: Iterable[Path], filters: Sequence[str]) -> dict[str, pa.Table]:
    """Measure files, and judge them by each of the filters."""
    names = list(map(str, paths))
    if not names:
        return {}
    measured = api.measure(names, filters)
    return {name: api.judge(measured, [name]) for name in filters}
