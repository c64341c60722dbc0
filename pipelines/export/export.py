"""export: verdicts -> shards, members, cards, and what proves them. Media is copied once, against its hash."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import histogram_columns
from infra import beam, progress, storage, tables
from infra.commit import Manifest, collect_units, need_manifest, read_json, read_manifest, write_manifest
from infra.hashing import canonical_json, fingerprint
from mixtures.cards import cards
from mixtures.reading.contract import RELEASED, estimate_text_tokens
from mixtures.reading.conversations import build_conversation, build_llava_turns, strip_control_tokens
from mixtures.shards import shards
from pipelines.core import tombstones
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.core.sample_media import source_root
from pipelines.core.signals import read_signals
from pipelines.core.verdicts import add_ledgers, tally
from pipelines.export.dataset_card import write_dataset_card
from pipelines.export.provenance import describe_run, write_checksums, write_run_json

PLAN = pa.schema(
    [
        ("series", pa.string()),
        ("weight", pa.int64()),
        ("bytes", pa.int64()),
        ("kept", pa.bool_()),
        ("caption", pa.string()),
    ]
)


def run(run: Run) -> Manifest:
    """Write RUN/shards, cards, RUN/members, README.md, croissant.json, the cards' pages, run.json and checksums.json;
    returns the members' manifest."""
    verdicts = need_manifest(run.out, "verdicts")
    late, dialogues = read_manifest(run.at("late")), _dialogues(run)
    settings = run.config.export.model_dump(mode="json")
    sources = [source.model_dump(mode="json", exclude={"path"}) for source in run.config.sources]
    stamp = fingerprint([verdicts.fingerprint, *(m.fingerprint if m else None for m in (late, dialogues)), settings,
                         sources, cards.VERSION])  # fmt: skip
    names = [unit.name for unit in verdicts.units]
    beam.run_tasks(
        "plan shards",
        functools.partial(plan_unit, run, stamp),
        names,
        run.work("export-plan.json"),
        run.runner_for(verdicts.rows),
    )
    layout = plan_layout(run, names)
    todo = layout.names()
    folder = run.at("shards")
    done = functools.partial(_count, folder)
    task = functools.partial(write_shard, run, stamp)
    with progress.watch("export", len(todo), done, what="shards", quiet=run.quiet):
        beam.run_tasks("export", task, todo, run.work("export.counters.json"), run.runner)
    units = collect_units(run.at("members"), todo, "export")
    manifest = write_manifest(run.at("members"), "members", stamp, units)
    _remove_stale(run, todo)
    write_unsharded_counts(run, names)
    write_dataset_card(run, todo)
    write_run_json(run)
    write_checksums(run, todo)
    return manifest


def _dialogues(run: Run) -> Manifest | None:
    """The dialogues that this config asks for.

    Raises StageError where it asks for some and they are not written.
    """
    return None if run.config.annotate is None else need_manifest(run.out, "dialogues")


def _remove_stale(run: Run, names: Sequence[str]) -> None:
    """A run that was made again with fewer shards must not leave those of its past beside them, for a glob to read."""
    for name in storage.list_names(run.at("members")):
        if name.endswith(".parquet") and name.removesuffix(".parquet") not in names:
            storage.remove(run.at("members", name))
    for name in storage.list_names(run.at("shards")):
        if name.split(".")[0] not in names:
            storage.remove(run.at("shards", name))


def _count(folder: str) -> int:
    return sum(name.endswith(".card.json") for name in storage.list_names(folder))


# -- plan -------------------------------------------------------------------------------------------------------


def plan_unit(run: Run, stamp: str, name: str) -> Mapping[str, int]:
    """Task: for each row its series and how much of a shard it takes."""
    uri = run.work("export", f"{name}.parquet")
    if tables.is_done(uri, stamp):
        return {}
    samples = tables.read(run.at("samples", f"{name}.parquet"))
    verdicts = tables.read(run.at("verdicts", f"{name}.parquet"), ["outcome"])
    signals = read_signals(run, name)
    kept = np.asarray(pc.equal(verdicts["outcome"], "kept"), dtype=bool)
    captions = _captions(run, signals)
    formats = _column(signals, "facts.container", samples.num_rows)
    sizes = _column(signals, "facts.bytes", samples.num_rows)
    series, bytes_ = [], []
    for row, caption, form, size in zip(samples.to_pylist(), captions, formats, sizes, strict=True):
        media = row["media"] or []
        image_format = form if len(media) == 1 and row["modality"] == "image" else None
        suffixes = [shards.get_suffix(medium["uri"] if medium["length"] < 0 else row["position"], image_format)
                    for medium in media]  # fmt: skip
        series.append(shards.name_series(row["modality"], suffixes, bool(caption) and run.config.export.captions_txt))
        lengths = [medium["length"] for medium in media]
        total = _size(run, row, size) if any(length < 0 for length in lengths) else sum(lengths)
        bytes_.append(total + len(caption.encode()))
    total_bytes = np.array(bytes_, dtype=np.int64).reshape(-1)
    weight = shards.weigh_rows(total_bytes, kept, run.config.export.shard_bytes, run.config.export.shard_samples)
    table = pa.table(
        {"series": series, "weight": weight, "bytes": total_bytes, "kept": kept, "caption": captions}, schema=PLAN
    )
    tables.write(uri, table, fingerprint=stamp)
    return {"rows": table.num_rows}


def _size(run: Run, row: Mapping[str, Any], known: Any) -> int:
    if known is not None and len(row["media"]) == 1:
        return int(known)
    roots = {source.name: source_root(source) for source in run.config.sources}
    total = 0
    for medium in row["media"]:
        uri = storage.join(roots[row["source"]], medium["uri"])
        if storage.is_local(uri) and storage.is_file(uri):
            total += storage.local_path(uri).stat().st_size
    return total


def _column(signals: pa.Table, name: str, rows: int) -> list[Any]:
    return list(signals[name].to_pylist()) if name in signals.schema.names else [None] * rows


def _captions(run: Run, signals: pa.Table) -> list[str]:
    """The text that a sample trains on: clean, with the text seen in the picture joined as configured."""
    clean = [strip_control_tokens(text or "") for text in signals["clean.text"].to_pylist()]
    ocr = run.config.export.ocr
    if not ocr.join or "overlay.text" not in signals.schema.names:
        return clean
    found = []
    for text, seen in zip(clean, signals["overlay.text"].to_pylist(), strict=True):
        words = strip_control_tokens(seen or "").split()
        found.append(ocr.template.format(caption=text, text=" ".join(words)) if len(words) >= ocr.min_words else text)
    return found


def plan_layout(run: Run, names: Sequence[str]) -> shards.ShardLayout:
    """Sum the units' weights in order, a number a unit and series; see in which stretches of weight a kept row begins.

    What is taken down after the plan was made keeps its weight there, so that no shard moves.
    """
    full = shards.compute_capacity(run.config.export.shard_bytes, run.config.export.shard_samples)
    totals: dict[str, int] = {}
    starts: dict[str, dict[str, int]] = {}
    used: dict[str, set[int]] = {}
    for name in names:
        plan = tables.read(run.work("export", f"{name}.parquet"), ["series", "weight"])
        starts[name] = dict(totals)
        series = np.array(plan["series"].to_pylist(), dtype=object)
        weight = np.asarray(plan["weight"], dtype=np.int64)
        for one in sorted(set(series.tolist())):
            mine = series == one
            before = totals.get(one, 0) + np.cumsum(weight[mine]) - weight[mine]
            used.setdefault(one, set()).update((before[weight[mine] > 0] // full).tolist())
            totals[one] = totals.get(one, 0) + int(weight[mine].sum())
    layout = shards.build_layout({one: sorted(stretches) for one, stretches in used.items()}, full)
    value = {
        "capacity": full,
        "first": dict(layout.first),
        "used": dict(layout.used),
        "totals": totals,
        "starts": starts,
    }
    storage.write_bytes(run.work("export-layout.json"), canonical_json(value))
    return layout


# -- shards -----------------------------------------------------------------------------------------------------


def rows_of_shard(run: Run, series: str, index: int) -> Iterator[tuple[str, pa.Table, Any, Any]]:
    """(unit, its plan, positions of kept rows, positions of all rows) that lie in a shard's range."""
    value = read_json(run.work("export-layout.json"))
    full, used = value["capacity"], value["used"][series]
    low = used[index] * full if index else 0
    high = used[index + 1] * full if index + 1 < len(used) else None
    totals = value["totals"][series]
    names = sorted(value["starts"])
    for position, name in enumerate(names):
        start = value["starts"][name].get(series, 0)
        end = value["starts"][names[position + 1]].get(series, 0) if position + 1 < len(names) else totals
        if (high is not None and start >= high) or end < low:
            continue
        plan = tables.read(run.work("export", f"{name}.parquet"))
        rows = np.flatnonzero(np.asarray(pc.equal(plan["series"], series), dtype=bool))
        if not len(rows):
            continue
        weight = np.asarray(plan["weight"], dtype=np.int64)[rows]
        before = start + np.cumsum(weight) - weight
        mine = shards.assign_shards(before, full, used) == index
        kept = np.asarray(plan["kept"], dtype=bool)[rows]
        yield name, plan, rows[mine & kept], rows[mine]


def write_shard(run: Run, stamp: str, name: str) -> Mapping[str, int]:
    """Task: one tar, its part of the members index, its card, in this order."""
    members_uri, card_uri = run.at("members", f"{name}.parquet"), run.at("shards", f"{name}.card.json")
    tar_uri = run.at("shards", f"{name}.tar")
    value = read_json(run.work("export-layout.json"))
    modality, number = name.rsplit("-", 1)
    series = next(
        s for s in value["first"]
        if s.split(":")[0] == modality and value["first"][s] <= int(number) < value["first"][s] + len(value["used"][s])
    )  # fmt: skip
    index = int(number) - value["first"][series]
    mine = fingerprint([stamp, series, index, value["capacity"], value["used"][series]])
    if tables.is_done(members_uri, mine) and storage.is_file(card_uri) and storage.is_file(tar_uri):
        return {"shards_kept": 1}
    rows: list[dict[str, Any]] = []
    signal_parts, verdict_parts, lineage = [], [], []
    said: list[dict[str, Any]] = []
    for unit, plan, kept, everything in rows_of_shard(run, series, index):
        samples = tables.read(run.at("samples", f"{unit}.parquet"))
        signals = read_signals(run, unit)
        verdicts = tables.read(run.at("verdicts", f"{unit}.parquet"))
        take = pa.array(kept)
        captions = plan["caption"].take(take).to_pylist()
        bytes_ = plan["bytes"].take(take).to_pylist()
        facts = signals.take(take)
        dialogues = _dialogue_rows(run, unit, modality)
        dicts = zip(samples.take(take).to_pylist(), facts.to_pylist(), captions, bytes_, strict=True)
        for s, f, c, b in dicts:
            rows.append({"sample": s, "signals": f, "caption": c, "bytes": b, "dialogue": dialogues.get(s["key"])})
            said += [dialogues[s["key"]]] if s["key"] in dialogues else []
        signal_parts.append(facts.replace_schema_metadata(None))
        verdict_parts.append(verdicts.take(pa.array(everything)).replace_schema_metadata(None))
        span = [int(everything.min()), int(everything.max())] if len(everything) else []
        lineage.append({"unit": unit, "rows": span, "kept": len(kept)})
    rows.sort(key=lambda row: row["sample"]["key"])
    made = [_sample(run, row) for row in rows]
    with storage.publish_when_written(tar_uri) as tar:
        tar.sha256, written = shards.write_tar(tar.path, ((m["key"], m["parts"]) for m in made))
        size = tar.path.stat().st_size
    members = _members(name, modality, made, written)
    tables.write(members_uri, members, fingerprint=mine)
    verdicts = pa.concat_tables(verdict_parts)
    signals = pa.concat_tables(signal_parts, promote_options="default")
    card = cards.build_card(
        name=name,
        tar={"sha256": tar.sha256, "bytes": size},
        series=series,
        members=members,
        signals=signals,
        score_columns=histogram_columns(filter_.name for filter_ in resolve(run).filters),
        ledger=tally(verdicts, {})["all"],  # type: ignore[arg-type]
        reasons=count_reasons(verdicts),
        dialogues=cards.summarize_dialogues(said),
        made_by={**describe_run(run), "lineage": lineage, **tombstones.describe_takedowns(verdicts)},
    )
    storage.write_bytes(card_uri, canonical_json(card))
    return {"shards_made": 1, "samples": len(rows), "bytes": size}


def count_reasons(verdicts: pa.Table) -> dict[str, int]:
    """Why rows were not kept, as "filter: reason", and how many each."""
    gone = verdicts.filter(pc.not_equal(verdicts["outcome"], "kept"))
    reasons = [str(reason).split(":")[0] if name == "ingest" else str(reason) for name, reason in
               zip(gone["filter"].to_pylist(), gone["reason"].to_pylist(), strict=True)]  # fmt: skip
    names = zip(gone["filter"].to_pylist(), reasons, strict=True)
    return cards.count_values([f"{name}: {reason[:60]}" for name, reason in names])


def _sample(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """One sample's members: media, JSON, and its caption as text where it has one."""
    sample, signals, caption = row["sample"], row["signals"], row["caption"]
    source = next(s for s in run.config.sources if s.name == sample["source"])
    media = sample["media"] or []
    extra = json.loads(sample["extra"] or "{}")
    given = extra.get("conversations") or extra.get("messages") or ()
    written = row.get("dialogue")
    if written is not None and written["outcome"] == "accepted":
        turns, kind = build_conversation(sample["modality"], caption, len(media), build_llava_turns(written["turns"]))
        kind = written["kind"] if kind == "conversation" else kind
    else:
        turns, kind = build_conversation(
            sample["modality"], caption, len(media), given if isinstance(given, list) else ()
        )
    seconds = float(signals.get("facts.duration") or 0.0)
    images = len(media) if sample["modality"] in ("image", "multi_image") else 0
    words = estimate_text_tokens("".join(turn["value"] for turn in turns))
    seen = RELEASED.media_tokens(np.array([sample["modality"]], object), np.array([seconds]), np.array([images]))
    record = {
        "id": sample["key"],
        "data_source": sample["source"],
        "data_type": sample["modality"],
        "kind": kind,
        "conversations": turns,
        "caption": caption,
        "licence": sample["licence"],
        "origin": sample["origin"],
        "container": sample["container"],
        "position": sample["position"],
        "sha256": [medium["sha256"] for medium in media] or [""],
        "width": int(signals.get("facts.width") or 0),
        "height": int(signals.get("facts.height") or 0),
        "duration": seconds,
        "fps": float(signals.get("facts.fps") or 0.0),
        "n_frames": int(signals.get("facts.frames") or 0),
        "language": str(signals.get("language.label") or ""),
        "ocr_text": strip_control_tokens(signals.get("overlay.text") or ""),
        "tokens": words + int(seen[0]),
    }
    parts = []
    series = shards.name_series(sample["modality"], ["?"] * len(media), False).split(":")[1].split(",")
    form = signals.get("facts.container") if len(media) == 1 and sample["modality"] == "image" else None
    for medium, slot in zip(media, series, strict=False):
        uri = storage.join(source_root(source), medium["uri"])
        suffix = shards.get_suffix(medium["uri"] if medium["length"] < 0 else sample["position"], form)
        size = medium["length"] if medium["length"] >= 0 else _length(uri)
        blocks = storage.read_blocks(uri, medium["offset"], medium["length"])
        parts.append(
            shards.Member(slot.replace("?", suffix), blocks=blocks, size=size, sha256=medium["sha256"], where=uri)
        )
    parts.append(shards.Member("json", data=canonical_json(record)))
    if caption and run.config.export.captions_txt:
        parts.append(shards.Member("txt", data=caption.encode()))
    parts.sort(key=lambda part: part.suffix)
    return {"key": sample["key"], "parts": parts, "record": record, "seconds": seconds,
            "images": images, "text_tokens": words,
            "bytes": sum(part.size if part.data is None else len(part.data) for part in parts)}  # fmt: skip


def _dialogue_rows(run: Run, unit: str, modality: str) -> dict[str, dict[str, Any]]:
    """A unit's dialogues by key."""
    if run.config.annotate is None or modality == "text":
        return {}
    return {row["key"]: row for row in tables.read(run.at("dialogues", f"{unit}.parquet")).to_pylist()}


def preview_samples(run: Run, unit: str, rows: Sequence[int]) -> list[tuple[int, int]]:
    """(bytes, tokens) that rows of a unit would have in shards; no medium is read."""
    take = pa.array(list(rows), pa.int64())
    signals = read_signals(run, unit).take(take)
    samples = tables.read(run.at("samples", f"{unit}.parquet")).take(take).to_pylist()
    found = []
    for sample, facts, caption in zip(samples, signals.to_pylist(), _captions(run, signals), strict=True):
        made = _sample(run, {"sample": sample, "signals": facts, "caption": caption})
        found.append((int(made["bytes"]), int(made["record"]["tokens"])))
    return found


def _length(uri: str) -> int:
    if storage.is_local(uri):
        path = storage.local_path(uri)
        return path.stat().st_size if path.is_file() else 0
    with storage.open_read(uri) as file:
        return file.seek(0, 2)


def _members(
    name: str, modality: str, made: Sequence[Mapping[str, Any]], written: Sequence[shards.WrittenSample]
) -> pa.Table:
    rows = []
    for sample, place in zip(made, written, strict=True):
        record = sample["record"]
        rows.append(
            {
                "key": place.key,
                "shard": name,
                "offset": place.offset,
                "size": place.size,
                "members": [{"name": n, "offset": o, "size": s} for n, o, s in place.members],
                "modality": modality,
                "source": record["data_source"],
                "licence": record["licence"],
                "kind": record["kind"],
                "language": record["language"],
                "tokens": record["tokens"],
                "text_tokens": sample["text_tokens"],
                "images": sample["images"],
                "seconds": sample["seconds"],
                "bytes": sample["bytes"],
            }
        )
    return pa.Table.from_pylist(rows, schema=tables.MEMBERS)


def write_unsharded_counts(run: Run, units: Sequence[str]) -> None:
    """Inputs that lie in no shard's range, such as those of a series of which nothing was kept."""
    value = read_json(run.work("export-layout.json"))
    parts = []
    for unit in units:
        series = np.array(
            tables.read(run.work("export", f"{unit}.parquet"), ["series"])["series"].to_pylist(), dtype=object
        )
        homeless = ~np.isin(series, [s for s, used in value["used"].items() if used])
        verdicts = tables.read(run.at("verdicts", f"{unit}.parquet"), ["modality", "outcome", "filter"])
        parts.append(tally(verdicts.filter(pa.array(homeless.astype(bool))), {}))
    ledger = read_json(run.at("ledger.json"))
    found: Mapping[str, Any] = add_ledgers(parts)  # type: ignore[arg-type]
    ledger["all"]["unsharded"] = {
        key: found.get("all", {}).get(key, {} if key in ("dropped", "failed") else 0)
        for key in ("inputs", "kept", "dropped", "duplicates", "failed")
    }
    storage.write_bytes(run.at("ledger.json"), canonical_json(ledger))
