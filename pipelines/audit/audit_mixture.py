"""Audit a mixture: manifest, rows, the runs that it draws from, and its own tars and cards."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from infra import storage, tables
from infra.errors import StageError
from mixtures.shards.manifest import MANIFEST as MIXTURE
from mixtures.shards.manifest import MEMBERS, VERSION, Mixture
from pipelines.audit.audit_descriptions import compare_lines
from pipelines.audit.files import DAMAGED, AuditFiles
from pipelines.audit.media_auditor import MediaAuditor
from pipelines.audit.mixture_rows import AuditedMixture, check_order, check_references, check_runs, check_totals
from pipelines.audit.mixture_tars import check_tars
from pipelines.mix import mixture_card, mixture_summary


def check_mixture(files: AuditFiles, deep: bool = False) -> dict[str, int]:
    """Audit a mixture, adding to the files' findings. deep: also decode the media in its own tars.

    Returns the number of samples and tars checked, and of media decoded.
    Raises StageError if another version of Reelmill wrote it.
    """
    looked = {"samples": 0, "tars": 0}
    audited = _open(files)
    if audited is None:
        return looked
    looked["samples"] = len(audited.keys)
    valid = check_references(audited)
    if valid:
        check_order(audited)
        check_totals(audited)
    indexes = check_runs(audited) if valid else None
    if audited.manifest["materialized"] is not None:
        looked["tars"] = len(audited.manifest["materialized"])
        if indexes is not None and deep:
            auditor = MediaAuditor(files)
            try:
                check_tars(audited, indexes, auditor)
            finally:
                auditor.close()
            looked["media"] = auditor.media
        elif indexes is not None:
            check_tars(audited, indexes)
    if valid:
        _check_cards(audited)
    return looked


def _open(files: AuditFiles) -> AuditedMixture | None:
    """Read manifest and members; None, with a finding, if either is missing, damaged or breaks its schema."""
    manifest: Any = files.read_json(MIXTURE)
    version = manifest.get("mixture") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise StageError(
            f"this mixture has version {version}, expected {VERSION}",
            where=files.at(MIXTURE),
            hint="make it again with `reelmill mix`: it contains its recipe, and no media are copied",
        )
    if manifest is None or not files.is_valid(MIXTURE, manifest, "mixture"):
        return None
    rows = files.read_table(MEMBERS, None, None, manifest["members"]["sha256"])
    if rows is None:
        return None
    if not rows.schema.equals(tables.MIXTURE):
        files.findings.add(MEMBERS, "schema", str(tables.MIXTURE.names), str(rows.schema.names))
        return None
    files.findings.compare(MIXTURE, "members.rows", rows.num_rows, manifest["members"]["rows"])
    columns = {name: rows[name].to_numpy() for name in rows.schema.names if name != "key"}
    return AuditedMixture(Mixture(files.uri, manifest), files, rows["key"], columns)


def _check_cards(audited: AuditedMixture) -> None:
    """Recompute card.json and the cards of the tars, and where this version of Reelmill wrote them, README.md and the
    pages: others word them differently. Older mixtures without a card are not checked."""
    files = audited.files
    if mixture_card.CARD not in files.sizes:
        return
    try:
        cards = mixture_card.build_cards(audited.mixture)
    except (StageError, *DAMAGED) as error:
        files.findings.add(mixture_card.CARD, "file", "a card that can be recomputed", str(error))
        return
    for path, content in cards.items():
        card = files.read_json(path) if path.endswith(".json") else None
        if card is not None:
            files.findings.compare_json(path, "", json.loads(content), card)
    if audited.manifest.get("reelmill") != importlib.metadata.version("reelmill"):
        return
    pages = {path: content for path, content in cards.items() if not path.endswith(".json")}
    pages[mixture_summary.README] = mixture_summary.build_readme(audited.mixture).encode()
    for path, content in pages.items():
        if path in files.sizes:
            compare_lines(files, path, content, storage.read_bytes(files.at(path)))
        else:
            files.findings.add(path, "file", "a file", "no file")
