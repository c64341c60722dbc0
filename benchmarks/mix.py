"""Time planning a mixture from a ratio and materializing it as tars, and measure its size on disk.

    python -m benchmarks.mix [--samples 1000000] [--large 0] [--media-mb 2048] [--seed 0] [--folder DIR]

Planning. The run is synthetic: members tables, manifest, cards and checksums as export writes them, and sparse tars of
the right size, since planning never reads one. 45 % images, 30 % videos, 20 % texts, 5 % of three images; sizes are
lognormal (sigma 1.0; videos 0.8) around means of 60 kB, 220 kB, 2 kB and 120 kB, about 100 kB a sample in all; keys are
random, ten sources of Zipf-like sizes, two licences, text tokens from sizes or lognormal. Shards hold at most 10,000
samples or 1 GB. `plan_s` is the wall time of plan and manifest in a fresh process on a run whose files are in the page
cache: reading and hashing the index, draws, plan, layout, members.parquet and mixture.json, libraries loaded
beforehand; the median of three ratios, each into a new folder. `mix_s` is pipelines.mix.mix.run, which writes README
and cards too. `bytes_fraction` is what such a mixture takes on disk, cards included, over the bytes of its samples.
With --large a further index of so many samples is planned in a child process, whose peak memory is printed.

Materializing. --media-mb of random bytes in samples of 100 kB on average (same laws, no texts of size) are packed into
tars by mixtures.shards.shards, then a mixture of all of them is materialized by pipelines.mix.materialize in a fresh
process with Beam loaded and its runner started once before, one worker (two threads, as by default); cards and README
included. The plain loop reads the same source tars in 1 MiB blocks, hashes each with sha256, writes it to a new file
and syncs it. `materialize_vs_copy_hash` is its wall time over ours, the median of A B, B A rounds; both read from the
page cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import tables
from infra.commit import Unit, write_manifest
from infra.hashing import canonical_json
from mixtures.shards import shards

ALPHABET = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", dtype=np.uint8)
#: modality: share, mean bytes, sigma, images, suffixes
LAWS = {
    "video": (0.30, 220_000, 0.8, 0, ("json", "mp4", "txt")),
    "image": (0.45, 60_000, 1.0, 1, ("jpg", "json", "txt")),
    "multi_image": (0.05, 120_000, 1.0, 3, ("0.jpg", "1.jpg", "2.jpg", "json", "txt")),
    "text": (0.20, 2_000, 1.0, 0, ("json",)),
}
RATIOS = (
    "text=0.12,image=0.35,multi_image=0.05,video=0.48",
    "text=0.14,image=0.40,multi_image=0.05,video=0.41",
    "text=0.10,image=0.45,multi_image=0.02,video=0.43",
)


# -- a run that is only an index --------------------------------------------------------------------------------


def make_index(run: Path, samples: int, seed: int) -> None:
    """A finished run of so many samples, without media."""
    rng = np.random.default_rng(seed)
    units, checksums = [], {}
    (run / "shards").mkdir(parents=True)
    for modality, (share, mean, sigma, images, suffixes) in LAWS.items():
        count = round(samples * share)
        sizes = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count).astype(np.int64) + 200
        full = np.maximum(np.cumsum(sizes) // 10**9, np.arange(count) // 10_000)
        starts = np.flatnonzero(np.diff(full, prepend=-1))
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], count], strict=True)):
            name = f"{modality}-{number:06d}"
            table = members_table(rng, name, modality, sizes[start:end], images, suffixes)
            tables.write(str(run / "members" / f"{name}.parquet"), table, fingerprint="0" * 32)
            size = int(table["offset"][-1].as_py() + table["size"][-1].as_py()) + 10_240
            with open(run / "shards" / f"{name}.tar", "wb") as file:
                file.truncate(size)
            digest = hashlib.sha256(name.encode()).hexdigest()
            checksums[f"shards/{name}.tar"] = digest
            write_card(run, name, modality, suffixes, table.num_rows, size, digest)
            buffer = (run / "members" / f"{name}.parquet").read_bytes()
            units.append(Unit(name, table.num_rows, hashlib.sha256(buffer).hexdigest()))
    finish_run(run, units, checksums)


def members_table(
    rng: np.random.Generator, name: str, modality: str, sizes: NDArray[np.int64], images: int, suffixes: tuple[str, ...]
) -> pa.Table:
    """Rows of a shard's index as export writes them; a sample's bytes are split among its members by a fixed law."""
    count, parts = len(sizes), len(suffixes)
    keys = ALPHABET[rng.integers(0, 32, (count, 26))]
    keys = keys[np.lexsort(keys.T[::-1])] if count else keys
    words = np.where(modality == "text", sizes // 4, rng.lognormal(3.2, 0.6, count).astype(np.int64) + 2)
    each = np.full((count, parts), 600, dtype=np.int64)
    if modality == "text":
        each[:, 0] = sizes
    else:
        each[:, suffixes.index("txt")] = words * 4
        media = [i for i, suffix in enumerate(suffixes) if suffix not in ("json", "txt")]
        each[:, media] = np.maximum(sizes[:, None] // len(media), 1)
    padded = 512 + each + -each % 512
    size = padded.sum(axis=1)
    offset = np.cumsum(size) - size
    content = offset[:, None] + np.cumsum(padded, axis=1) - padded + 512
    strings = pa.array([key.tobytes().decode() for key in keys])
    names = pa.array([f"{key.tobytes().decode()}.{suffix}" for key in keys for suffix in suffixes])
    inner = pa.StructArray.from_arrays(
        [names, pa.array(content.ravel()), pa.array(each.ravel())],
        fields=list(tables.MEMBERS.field("members").type.value_type),
    )
    popularity = 1 / np.arange(1, 11)
    source = rng.choice(10, count, p=popularity / popularity.sum())
    seconds = np.round(rng.lognormal(2.5, 0.9, count), 3) if modality == "video" else np.zeros(count)
    return pa.table(
        {
            "key": strings,
            "shard": pa.array([name] * count),
            "offset": offset,
            "size": size,
            "members": pa.ListArray.from_arrays(np.arange(0, count * parts + 1, parts, dtype=np.int32), inner),
            "modality": pa.array([modality] * count),
            "source": pa.array([f"{modality}-source-{i}" for i in source]),
            "licence": pa.array(np.where(source % 2 == 0, "CC-BY-4.0", "CC0-1.0").tolist()),
            "kind": pa.array(["document" if modality == "text" else "caption"] * count),
            "language": pa.array(["en"] * count),
            "tokens": words + 128 * images,
            "text_tokens": words,
            "images": np.full(count, images, dtype=np.int32),
            "seconds": seconds,
            "bytes": each.sum(axis=1),
        },
        schema=tables.MEMBERS,
    )


def write_card(
    run: Path, name: str, modality: str, suffixes: tuple[str, ...], samples: int, size: int, digest: str
) -> None:
    card = {"card": 1, "shard": name, "modality": modality, "suffixes": list(suffixes), "samples": samples,
            "tar": {"bytes": size, "sha256": digest}, "licences": {}, "made_by": {"filler": "x" * 3000}}  # fmt: skip
    (run / "shards" / f"{name}.card.json").write_bytes(canonical_json(card))


def finish_run(run: Path, units: list[Unit], checksums: dict[str, str]) -> None:
    write_manifest(str(run / "members"), "members", "0" * 32, units)
    (run / "checksums.json").write_bytes(canonical_json(checksums))
    (run / "run.json").write_bytes(canonical_json({"config": {"name": "bench"}}))


# -- planning ---------------------------------------------------------------------------------------------------


def plan_child(run: str, out: str, ratios: list[str]) -> None:
    """In a process of its own: plan each ratio, print seconds, peak memory and bytes."""
    import scipy.optimize  # noqa: F401  loaded beforehand, as the docstring says

    from mixtures.plan.recipe import read_ratio
    from mixtures.shards.manifest import write_mixture
    from pipelines.mix import mix, plan_mixture

    planned_mixture = []
    for number, ratio in enumerate(ratios):
        begun, cpu = time.perf_counter(), time.process_time()
        planned = plan_mixture.plan_mixture([run], read_ratio(ratio), f"{out}/plan-{number}", quiet=True)
        write_mixture(f"{out}/plan-{number}", planned.manifest, planned.members)
        entry = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
        del planned
        begun, cpu = time.perf_counter(), time.process_time()
        mixture = mix.run([run], read_ratio(ratio), f"{out}/{number}", quiet=True)
        entry |= {"mix_s": time.perf_counter() - begun, "mix_cpu": time.process_time() - cpu}
        written = sum(path.stat().st_size for path in Path(f"{out}/{number}").rglob("*") if path.is_file())
        totals = mixture.manifest["totals"]
        planned_mixture.append({**entry, "written": written, "bytes": totals["bytes"], "samples": totals["samples"]})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rounds": planned_mixture, "peak": peak}))


def child(*arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.mix", *arguments], stdout=subprocess.PIPE, check=True, env=environment
    )
    return dict(json.loads(done.stdout.decode().strip().splitlines()[-1]))


# -- materializing ----------------------------------------------------------------------------------------------


def make_media(run: Path, megabytes: int, seed: int) -> None:
    """A run whose tars are real: random bytes as media, records as JSON."""
    rng = np.random.default_rng(seed)
    (run / "shards").mkdir(parents=True)
    units, checksums = [], {}
    limit, number = 128 * 10**6, 0
    remaining = megabytes * 10**6
    order = ("video", "image", "image", "video", "multi_image")
    while remaining > 0:
        modality = order[number % len(order)]
        _, mean, sigma, images, suffixes = LAWS[modality]
        media = [suffix for suffix in suffixes if suffix not in ("json", "txt")]
        name = f"{modality}-{number:06d}"
        samples: list[tuple[str, list[shards.Member]]] = []
        used = 0
        while used < limit:
            size = int(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma)) + 200
            key = ALPHABET[rng.integers(0, 32, 26)].tobytes().decode()
            contents = {suffix: rng.bytes(max(1, size // len(media))) for suffix in media}
            hashes = [hashlib.sha256(content).hexdigest() for content in contents.values()]
            record = {"id": key, "sha256": hashes, "caption": "A made-up caption.", "filler": "x" * 400}
            contents["json"] = canonical_json(record)
            contents["txt"] = b"A made-up caption."
            samples.append((key, [shards.Member(suffix, content=contents[suffix]) for suffix in sorted(contents)]))
            used += size
        samples.sort(key=lambda sample: sample[0])
        digest, written = shards.write_tar(run / "shards" / f"{name}.tar", samples)
        table = members_table(rng, name, modality, np.full(len(samples), 1, dtype=np.int64), images, suffixes)
        where = {
            "key": [w.key for w in written],
            "offset": [w.offset for w in written],
            "size": [w.size for w in written],
            "bytes": [sum(size for _, _, size in w.members) for w in written],
        }
        for column, values in where.items():
            at = table.schema.get_field_index(column)
            table = table.set_column(at, table.schema.field(column), pa.array(values))
        inside = pa.array(
            [[{"name": n, "offset": o, "size": s} for n, o, s in w.members] for w in written],
            tables.MEMBERS.field("members").type,
        )
        table = table.set_column(4, table.schema.field("members"), inside)
        tables.write(str(run / "members" / f"{name}.parquet"), table, fingerprint="0" * 32)
        size = (run / "shards" / f"{name}.tar").stat().st_size
        checksums[f"shards/{name}.tar"] = digest
        write_card(run, name, modality, suffixes, len(samples), size, digest)
        payload = (run / "members" / f"{name}.parquet").read_bytes()
        units.append(Unit(name, len(samples), hashlib.sha256(payload).hexdigest()))
        remaining -= used
        number += 1
    finish_run(run, units, checksums)


def materialize_child(run: str, out: str) -> None:
    """In a process of its own: all of a run as tars of a mixture; prints seconds."""
    from infra import beam
    from infra.beam import Runner
    from mixtures.plan.recipe import Recipe
    from pipelines.mix import mix
    from pipelines.mix.materialize import materialize
    from pipelines.mix.mixture_card import write_cards

    Path(out).mkdir(parents=True)
    beam.run_tasks("start", warm, ["0"], f"{out}-warm.json", Runner())
    mixture = mix.run([run], Recipe(name="all"), out, quiet=True)
    begun, cpu = time.perf_counter(), time.process_time()
    mixture = materialize(mixture, quiet=True)
    write_cards(mixture)
    seconds = time.perf_counter() - begun
    size = sum(entry["bytes"] for entry in mixture.manifest["materialized"])
    print(json.dumps({"seconds": seconds, "cpu": time.process_time() - cpu, "bytes": size}))


def warm(task: str) -> dict[str, int]:
    return {"warm": 1}


def plain_copy(run: str, out: str) -> None:
    """In a process of its own: read, hash, write, sync; prints seconds."""
    Path(out).mkdir(parents=True)
    begun, cpu = time.perf_counter(), time.process_time()
    size = 0
    for path in sorted(Path(run, "shards").glob("*.tar")):
        state = hashlib.sha256()
        with open(path, "rb") as source, open(Path(out) / path.name, "wb") as target:
            while block := source.read(2**20):
                state.update(block)
                target.write(block)
                size += len(block)
            target.flush()
            os.fsync(target.fileno())
    print(json.dumps({"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu, "bytes": size}))


def measure_materialize(folder: Path, megabytes: int, seed: int, rounds: int) -> dict[str, Any]:
    run = folder / "media"
    if not run.exists():
        make_media(run, megabytes, seed)
    for path in sorted((run / "shards").glob("*.tar")):  # both sides find the page cache warm
        path.read_bytes()
    ours, plain = [], []
    for number in range(rounds):
        sides = [("materialize", ours), ("plain", plain)]
        for side, times in sides if number % 2 == 0 else sides[::-1]:
            out = folder / f"out-{side}"
            shutil.rmtree(out, ignore_errors=True)
            times.append(child(f"--{side}", str(run), str(out)))
            shutil.rmtree(out, ignore_errors=True)
    begun = time.perf_counter()
    shutil.copytree(run / "shards", folder / "cp")
    copied = time.perf_counter() - begun
    shutil.rmtree(folder / "cp")
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(ours, plain, strict=True)]
    return {
        "materialize_vs_copy_hash": round(statistics.median(ratios), 3),
        "rounds": [round(ratio, 3) for ratio in ratios],
        "materialize_mb_s": round(statistics.median(a["bytes"] / a["seconds"] for a in ours) / 1e6, 1),
        "copy_hash_mb_s": round(statistics.median(b["bytes"] / b["seconds"] for b in plain) / 1e6, 1),
        "materialize_cpu_over_wall": round(statistics.median(a["cpu"] / a["seconds"] for a in ours), 2),
        "cp_mb_s": round(plain[0]["bytes"] / copied / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=0)
    parser.add_argument("--media-mb", type=int, default=2_048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--plan", nargs="+", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--materialize", nargs=2, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--plain", nargs=2, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan:
        plan_child(arguments.plan[0], arguments.plan[1], arguments.plan[2:])
        return
    if arguments.materialize:
        materialize_child(*arguments.materialize)
        return
    if arguments.plain:
        plain_copy(*arguments.plain)
        return
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="mix-"))
    figures: dict[str, Any] = {}
    try:
        for name, count in (("", arguments.samples), ("large_", arguments.large)):
            if not count:
                continue
            run = folder / f"run-{count}"
            if not run.exists():
                make_index(run, count, arguments.seed)
            out = folder / "mixes"
            shutil.rmtree(out, ignore_errors=True)
            timings = child("--plan", str(run), str(out), *(RATIOS if not name else RATIOS[:1]))
            shutil.rmtree(out, ignore_errors=True)
            rounds = timings["rounds"]
            figures[f"{name}plan_s"] = round(statistics.median(r["seconds"] for r in rounds), 2)
            figures[f"{name}plan_rounds_s"] = [round(r["seconds"], 2) for r in rounds]
            figures[f"{name}plan_cpu_s"] = round(statistics.median(r["cpu"] for r in rounds), 2)
            figures[f"{name}mix_s"] = round(statistics.median(r["mix_s"] for r in rounds), 2)
            figures[f"{name}mix_cpu_s"] = round(statistics.median(r["mix_cpu"] for r in rounds), 2)
            figures[f"{name}bytes_fraction"] = round(max(r["written"] / r["bytes"] for r in rounds), 7)
            figures[f"{name}index_samples"] = count
            figures[f"{name}taken"] = [r["samples"] for r in rounds]
            figures[f"{name}peak_gb"] = round(timings["peak"] / 1e9, 2)
        if arguments.media_mb:
            figures |= measure_materialize(folder, arguments.media_mb, arguments.seed, arguments.rounds)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    figures["load"] = round(os.getloadavg()[0], 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
