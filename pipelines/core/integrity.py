"""Verify the files of a run before it is continued: what is damaged is set aside, so that its stage makes it again.

RUN/checksums.json lists every file of a finished run. A stage withdraws it before it rewrites anything; from then until
the next export there is no list, and tables are read instead: their pages have checksums.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from infra import storage, tables
from infra.commit import MANIFEST, find_json
from infra.errors import StageError
from pipelines.core import tombstones
from pipelines.core.run import Run

CHECKSUMS = "checksums.json"

#: Stages whose tables are covered by checksums, beside shards, cards and the JSON files.
COVERED = ("samples", "signals", "late", "duplicates", "resample", "verdicts", "dialogues", "members")

#: Files hashed at a time (ours).
HASHERS = 4


def set_aside_damage(run: Run) -> list[str]:
    """Verify a run's files and move those that are not as they were written to RUN/work/damaged; returns their paths.

    Raises StageError for a damaged list of take-downs, which nothing can make again.
    """
    checksums = find_json(run.at(CHECKSUMS))
    paths = [CHECKSUMS] if checksums is None and storage.is_file(run.at(CHECKSUMS)) else []
    with ThreadPoolExecutor(HASHERS) as pool:
        if isinstance(checksums, dict):
            listed = sorted(checksums.items())
            sound = pool.map(lambda entry: _has_sha256(run.at(entry[0]), entry[1]), listed)
            paths += [path for (path, _), is_sound in zip(listed, sound, strict=True) if not is_sound]
        else:
            paths += _find_unreadable(run)
    if tombstones.FILE in paths:
        hint = "restore it from a copy: without it, samples that were taken down would come back"
        raise StageError("the list of take-downs is damaged", where=run.at(tombstones.FILE), hint=hint)
    for path in paths:
        target = run.work("damaged", path.replace("/", "-"))
        storage.set_aside(run.at(path), "it is made again", target)
    return paths


def withdraw_checksums(run: Run) -> None:
    """Remove the list of checksums: files of the run are about to change, and the export will list them anew."""
    storage.remove(run.at(CHECKSUMS))


def _has_sha256(uri: str, sha256: str) -> bool:
    """Whether a file has this sha256; a missing one is nobody's damage, and its stage makes it again."""
    return not storage.is_file(uri) or storage.sha256(uri) == sha256


def _find_unreadable(run: Run) -> Iterator[str]:
    """Tables and manifests of stages that cannot be read, and cards whose tar is another."""
    for stage in COVERED:
        for name in storage.list_names(run.at(stage)):
            uri = run.at(stage, name)
            is_table = name.endswith(".parquet")
            if not (tables.is_readable(uri) if is_table else _is_sound_json(uri, is_manifest=name == MANIFEST)):
                yield f"{stage}/{name}"
    for name in storage.list_names(run.at("shards")):
        if name.endswith(".card.json") and not _is_sound_card(run, name):
            yield f"shards/{name}"


def _is_sound_json(uri: str, *, is_manifest: bool) -> bool:
    content = find_json(uri)
    return isinstance(content, dict) and (not is_manifest or {"stage", "input", "units"} <= set(content))


def _is_sound_card(run: Run, name: str) -> bool:
    card = find_json(run.at("shards", name))
    tar = card.get("tar") if isinstance(card, dict) else None
    return isinstance(tar, dict) and _has_sha256(run.at("shards", name.replace(".card.json", ".tar")), tar["sha256"])
