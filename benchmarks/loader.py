"""Compare the loader with plain webdataset over the same tars, and time a resume in the middle of an epoch.
Prints one JSON object as its last line.

    python -m benchmarks.loader [--samples 1500] [--decoded 30] [--quick]

All comparisons are within one process, A B B A over and over after each side has run once, files in the system's cache.
Ratios are of the medians of CPU time, decoder's child included, because the machine may be shared; ratios of wall time
are printed beside them.

vs_webdataset: samples per second of `Loader` over those of `webdataset.WebDataset(urls, shardshuffle=False)`, one
process each, no media decoded, over a materialized mixture of --samples samples in 8 tars: 40 % videos of 180 kB, 33 %
images of 80 kB, 16 % pairs of images of 50 kB each, 11 % texts; media are random bytes, 114 kB a sample, with JSON like
that of `reelmill export`. The loader shuffles, checks every tar header and parses the JSON; webdataset does none of it.
vs_webdataset_virtual: the same samples out of the run's own tars, against webdataset over the materialized ones.

vs_webdataset_decoded: the same with `decode=True` against webdataset with the same decoding of each sample: a third
each of clips of 3 s (inputs.py), JPEGs and texts, --decoded in all, ten times over; a sample from one side, a sample
from the other. vs_webdataset_decoded_reader: without the decoders' children, whose work is the same on both sides.

resume_s: wall seconds from `Loader(mixture)` over `load_state_dict` to the next sample in hand, after 1,000,000 of the
1,200,000 samples of an epoch, the median of five processes that have opened the mixture once before, so that imports
are not counted; resume_cpu_s: of its CPU time. Keys are random, as real ones are; of the tar, 2.5 GB and sparse, only
the parts that are read contain data.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that its path can be given, too

from benchmarks.clock import cpu
from benchmarks.sets import inputs
from infra import tables
from infra.hashing import canonical_json, sample_key
from mixtures.loader import Loader
from mixtures.reading.contract import RELEASED
from mixtures.reading.order import Order
from mixtures.reading.training_sample import SampleDecoder
from mixtures.shards import manifest, shards

VSHARDS = 8
SEED = 1
RESUME_AT, RESUME_OF = 1_000_000, 1_200_000

#: (modality, suffixes, share of samples, bytes of each medium)
KINDS = (
    ("video", ("mp4",), 0.40, 180_000),
    ("image", ("jpg",), 0.33, 80_000),
    ("multi_image", ("0.jpg", "1.jpg"), 0.16, 50_000),
    ("text", (), 0.11, 0),
)

Sample = tuple[str, list[shards.Member]]


def sample(number: int, modality: str, media: dict[str, bytes], **facts: Any) -> Sample:
    key = sample_key("benchmark", "", str(number), "", "")
    answer = inputs.caption(number) if media else inputs.document(number)
    turns = [{"from": "human", "value": "<image>" * len(media) + "\nDescribe it."}, {"from": "gpt", "value": answer}]
    record = {
        "id": key,
        "data_source": "benchmark",
        "data_type": modality,
        "kind": "caption" if media else "document",
        "conversations": turns if media else turns[1:],
        "caption": answer,
        "licence": "CC0-1.0",
        "origin": "",
        "container": f"{number}",
        "position": "",
        "sha256": [hashlib.sha256(content).hexdigest() for content in media.values()] or [""],
        "width": 640,
        "height": 480,
        "duration": 0.0,
        "fps": 0.0,
        "n_frames": 0,
        "pixel_aspect": 0.0,
        "language": "en",
        "ocr_text": "",
        "tokens": 100,
        **facts,
    }
    members = [shards.Member(name, content=content) for name, content in media.items()]
    return key, sorted(
        [*members, shards.Member("json", content=canonical_json(record))], key=lambda member: member.suffix
    )


def mixture(folder: Path, samples: dict[str, list[Sample]]) -> tuple[manifest.Mixture, manifest.Mixture]:
    """The same samples as a virtual and as a materialized mixture; modalities interleaved in each virtual shard."""
    (folder / "run" / "shards").mkdir(parents=True)
    shards_held: list[dict[str, Any]] = []
    rows: list[tuple[int, float, dict[str, Any], Sample]] = []
    for group, (modality, own_samples) in enumerate(samples.items()):
        path = folder / "run" / "shards" / f"{modality}-000000.tar"
        digest, written = shards.write_tar(path, own_samples)
        size = path.stat().st_size
        shards_held.append({"parent": 0, "name": path.stem, "modality": modality, "bytes": size, "sha256": digest})
        for i, (offset, entry) in enumerate(zip(written, own_samples, strict=True)):
            v = i * VSHARDS // len(own_samples)
            row = {"key": offset.key, "vshard": v, "group": group, "shard": group, "repeat": 0, "tokens": 1,
                   "offset": offset.offset, "size": offset.size, "seconds": 0.0, "bytes": offset.size}  # fmt: skip
            rows.append((v, i / len(own_samples), row, entry))
    rows.sort(key=lambda entry: entry[:2])
    own = []
    for v in range(VSHARDS):
        path = folder / "own" / "shards" / f"mix-{v:06d}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        own_rows = [entry for entry in rows if entry[0] == v]
        for position, entry in enumerate(own_rows):
            entry[2]["position"] = position
        digest, _ = shards.write_tar(path, [entry[3] for entry in own_rows])
        own.append({"name": path.stem, "samples": len(own_rows), "bytes": path.stat().st_size, "sha256": digest})
    table = pa.Table.from_pylist([entry[2] for entry in rows], schema=tables.MIXTURE)
    mixture_json = {
        "seed": SEED,
        "unit": "samples",
        "contract": asdict(RELEASED),
        "parents": [{"run": "../run", "name": "run", "members": ""}],
        "shards": shards_held,
        "groups": [{"name": entry["modality"], "modality": entry["modality"]} for entry in shards_held],
        "achieved": {"samples": {}},
        "vshards": VSHARDS,
        "materialized": None,
    }
    virtual = manifest.write_mixture(str(folder / "virtual"), mixture_json, table)
    return virtual, manifest.write_mixture(str(folder / "own"), {**mixture_json, "materialized": own}, table)


def undecoded(count: int) -> dict[str, list[Sample]]:
    rng = np.random.default_rng(SEED)
    loader: dict[str, list[Sample]] = {}
    number = 0
    for modality, suffixes, share, size in KINDS:
        loader[modality] = []
        for _ in range(round(count * share)):
            loader[modality].append(sample(number, modality, {suffix: rng.bytes(size) for suffix in suffixes}))
            number += 1
    return loader


def decodable(count: int) -> dict[str, list[Sample]]:
    each = count // 3
    clips = [inputs.clip(i, inputs.CLIP_SIZES[i % 3]) for i in range(min(6, each))]
    images = [inputs.jpeg(i) for i in range(min(12, each))]
    facts = {"duration": 3.0, "fps": 25.0, "n_frames": 75}
    return {
        "video": [sample(i, "video", {"mp4": clips[i % len(clips)]}, **facts) for i in range(each)],
        "image": [sample(each + i, "image", {"jpg": images[i % len(images)]}) for i in range(each)],
        "text": [sample(2 * each + i, "text", {}) for i in range(each)],
    }


# -- sides ------------------------------------------------------------------------------------------------------


def from_webdataset(mixed: manifest.Mixture, door: SampleDecoder | None) -> Iterator[Any]:
    import webdataset

    urls = [mixed.own_tar(v) for v in range(VSHARDS)]
    for samples in webdataset.WebDataset(urls, shardshuffle=False):
        yield samples if door is None else door.decode({**samples, "json": json.loads(samples["json"])})


def count_all(mixed: manifest.Mixture) -> int:
    return sum(1 for _ in from_webdataset(mixed, None))


def with_loader(loader: Loader) -> int:
    loader.set_epoch(0)
    return sum(1 for _ in loader)


def ratio(a: Callable[[], int], b: Callable[[], int], turns: str) -> tuple[float, float]:
    """(CPU, wall) of b over those of a, both asked for the same samples; of each side's turns the median."""
    assert a() == b()
    spent: dict[str, list[tuple[float, float]]] = {"A": [], "B": []}
    for side in turns:
        begun, before = time.perf_counter(), cpu()
        (a if side == "A" else b)()
        spent[side].append((cpu() - before, time.perf_counter() - begun))
    for side, what in (("A", "Loader"), ("B", "webdataset")):
        print(f"{what}: CPU {[round(pair[0], 2) for pair in spent[side]]}", file=sys.stderr)
    (cpu_a, wall_a), (cpu_b, wall_b) = (
        [statistics.median(column) for column in zip(*spent[side], strict=True)] for side in "AB"
    )
    return cpu_b / cpu_a, wall_b / wall_a


def by_turns(loader: Loader, own: manifest.Mixture, door: SampleDecoder, rounds: int) -> tuple[float, float]:
    """CPU of webdataset over that of the loader, with the same decoding: a sample from one, a sample from the other, so
    that whatever else the machine does falls on both alike. First all CPU, then without the decoders' children."""
    times, theirs = [0.0, 0.0], [0.0, 0.0]
    for turn in range(rounds + 1):
        loader.set_epoch(0)
        sides = (iter(loader), from_webdataset(own, door))
        if turn == 1:  # the first round has started both children and brought all imports
            times, theirs = [0.0, 0.0], [0.0, 0.0]
        children = [child.pid for child in psutil.Process().children(recursive=True)]
        for number in range(loader.order.total):
            for side in (0, 1) if (number + turn) % 2 else (1, 0):
                before = time.process_time(), on_cpu(children)
                next(sides[side])
                times[side] += time.process_time() - before[0]
                theirs[side] += on_cpu(children) - before[1]
    print(f"decoded: CPU {times}, of the children {theirs}", file=sys.stderr)
    return (times[1] + theirs[1]) / (times[0] + theirs[0]), times[1] / times[0]


def on_cpu(children: list[int]) -> float:
    """CPU seconds of other processes, to the nanosecond (Linux)."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in children) / 1e9


# -- going on ---------------------------------------------------------------------------------------------------


def many(folder: Path, at: int, of: int) -> None:
    """A mixture of `of` texts in virtual shards of 256, of which only the one at place `at` of epoch 0 is written."""
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", dtype=np.uint8)
    drawn = letters[np.random.default_rng(SEED).integers(0, 32, (of, 26))]
    keys = pa.array(np.ascontiguousarray(drawn).view("S26").reshape(-1).astype(object), pa.binary()).cast(pa.string())
    numbers = np.arange(of)
    vshards = int(numbers[-1]) // 256 + 1
    row = int(Order(np.bincount(numbers // 256), SEED).rows(0, at, at + 1)[0])
    key = keys[row].as_py()
    record = {"id": key, "data_type": "text", "conversations": [{"from": "gpt", "value": "A text."}], "sha256": [""]}
    (folder / "run" / "shards").mkdir(parents=True)
    entry = folder / "one.tar"
    _, (offset,) = shards.write_tar(entry, [(key, [shards.Member("json", content=canonical_json(record))])])
    with open(folder / "run" / "shards" / "text-000000.tar", "wb") as file:
        file.truncate(of * 2048)
        file.seek(row * 2048)
        file.write(entry.read_bytes()[: offset.size])
    zeros = np.zeros(of)
    table = pa.table(
        {"key": keys, "vshard": numbers // 256, "position": numbers % 256, "group": zeros, "shard": zeros,
         "repeat": zeros, "offset": numbers * 2048, "size": np.full(of, offset.size), "tokens": np.full(of, 100),
         "seconds": zeros, "bytes": np.full(of, offset.size)}
    ).cast(tables.MIXTURE)  # fmt: skip
    mixture_json = {
        "seed": SEED,
        "unit": "samples",
        "contract": asdict(RELEASED),
        "parents": [{"run": "../run", "name": "run", "members": ""}],
        "shards": [{"parent": 0, "name": "text-000000", "modality": "text"}],
        "groups": [{"name": "text", "modality": "text"}],
        "achieved": {"samples": {"text": 1.0}},
        "vshards": vshards,
        "materialized": None,
    }
    manifest.write_mixture(str(folder / "mix"), mixture_json, table)


def go_on(folder: Path, at: int) -> None:
    """In a process of its own: print the wall and CPU seconds of a resume."""
    state = Loader(str(folder / "mix")).state_dict()
    begun, spent = time.perf_counter(), time.process_time()
    loader = Loader(str(folder / "mix"))
    loader.load_state_dict({**state, "consumed": at})
    resumed = next(iter(loader))
    took = time.perf_counter() - begun, time.process_time() - spent
    assert resumed["json"]["id"] == resumed["__key__"] and loader.consumed == at + 1
    print(json.dumps(took))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--decoded", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it work?")
    parser.add_argument("--go-on", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--at", type=int, default=RESUME_AT, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.go_on:
        return go_on(options.go_on, options.at)
    warnings.simplefilter("ignore")
    count, few = (200, 6) if options.quick else (options.samples, options.decoded)
    at, of = (10_000, 12_000) if options.quick else (RESUME_AT, RESUME_OF)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="reelmill-loader-") as name:
        folder = Path(name)
        virtual, own = mixture(folder / "raw", undecoded(count))
        for label, figure in (("vs_webdataset", own), ("vs_webdataset_virtual", virtual)):
            loader = Loader(figure)
            theirs = functools.partial(count_all, own)
            cpu_ratio, wall = ratio(functools.partial(with_loader, loader), theirs, "ABBAABBA")
            figures |= {label: round(cpu_ratio, 3), f"{label}_wall": round(wall, 3)}
            loader.close()
        _, own = mixture(folder / "decoded", decodable(few))
        loader, door = Loader(own, decode=True), SampleDecoder(RELEASED)
        both, alone = by_turns(loader, own, door, 2 if options.quick else 10)
        figures |= {"vs_webdataset_decoded": round(both, 3), "vs_webdataset_decoded_reader": round(alone, 3)}
        loader.close()
        door.close()
        many(folder / "many", at, of)
        command = [sys.executable, "-m", "benchmarks.loader", "--go-on", str(folder / "many"), "--at", str(at)]
        root = str(Path(__file__).parents[1])
        took = []
        for _ in range(5):
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root)
            took.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"seconds to resume: {took}", file=sys.stderr)
        figures |= {
            "resume_s": round(statistics.median(figure[0] for figure in took), 3),
            "resume_cpu_s": round(statistics.median(figure[1] for figure in took), 3),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
