"""A very small corpus in every form that ingest reads, with faults whose fate is known."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from infra.beam import Runner
from pipelines import stages
from pipelines.core.run import Run

ADJECTIVES = ["small", "large", "quiet", "busy", "wooden", "yellow", "distant", "narrow", "sunny", "frozen"]
PLACES = ["harbour", "bridge", "market", "forest", "kitchen", "station", "garden", "valley", "library", "workshop"]
THINGS = ["boat", "bicycle", "lantern", "basket", "horse", "piano", "kettle", "ladder", "window", "umbrella"]


def caption(number: int) -> str:
    """A short English caption, another for each number below 1,000."""
    a, b, c = number % 10, number // 10 % 10, number // 100 % 10
    return f"A {ADJECTIVES[a]} {THINGS[b]} is standing near the {PLACES[c]} number {number} in the morning."


NOUNS = [
    *("teacher", "engine", "river", "summer", "letter", "doctor", "mountain", "story", "village", "camera", "dinner"),
    *("season", "artist", "island", "forest", "signal", "captain", "winter", "method", "market", "science", "harbour"),
    *("pattern", "reason", "bottle", "weather", "journey", "painter", "hospital", "message"),
]
VERBS = ["carried", "finished", "followed", "noticed", "repaired", "described", "painted", "avoided", "answered"]
LINKS = ["because", "although", "while", "before", "after", "unless", "since", "until"]


def document(number: int) -> str:
    """A few English sentences that share hardly a phrase with those of another number."""
    rng = np.random.default_rng(number)
    sentences = []
    for _ in range(7):
        a, b, c, d, e = (NOUNS[i] for i in rng.permutation(len(NOUNS))[:5])
        v, w = (VERBS[i] for i in rng.permutation(len(VERBS))[:2])
        link = LINKS[int(rng.integers(len(LINKS)))]
        sentences.append(f"Every {a} {v} that {b} with my {c} {link} our {d} {w} an old {e} of {rng.integers(1000)}.")
    return " ".join(sentences)


def picture(number: int, width: int = 160, height: int = 120) -> np.ndarray:
    """uint8 (height, width, 3): soft blobs that a perceptual hash can tell from those of every other number."""
    rng = np.random.default_rng(1000 + number)
    small = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def image_bytes(pixels: np.ndarray, kind: str = "JPEG", **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, **how)
    return file.getvalue()


def write_captioned_pictures(folder: Path, numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Write pictures and captions by number. Returns the sources of a config: one, called "a"."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number:02d}.jpg").write_bytes(image_bytes(picture(number)))
        (folder / f"{number:02d}.txt").write_text(caption(number))
    return [{"name": "a", "path": str(folder), "modality": "image"}]


def write_clip(path: Path, number: int, *, frames: int = 16, speed: int = 3) -> Path:
    """A view that wanders over a picture, `speed` pixels a frame, at 8 frames a second, in H.264."""
    import av

    wide = picture(number, 320, 180)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8, options={"threads": "1", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(frames):
            x = i * speed % 160
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(wide[20:140, x : x + 160]), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 8)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


def add_member(tar: tarfile.TarFile, name: str, content: bytes = b"", *, link: str | None = None) -> None:
    """Add a member under any name, hostile ones too."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    if link is not None:
        info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
    tar.addfile(info, io.BytesIO(content))


def write_corpus(root: Path) -> Path:
    """root/photos, captioned, archive, llava, clips, texts: see FATES for what must become of the faults."""
    _photos(root / "photos")
    _captioned(root / "captioned")
    _archive(root / "archive")
    _llava(root / "llava")
    _clips(root / "clips")
    _texts(root / "texts")
    (root / "vocabulary.json").write_text(json.dumps(["morning", *THINGS, *PLACES]))
    return root


def _photos(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "картинки").mkdir()
    names = ["one.jpg", "two.with.dots.jpg", "a/same.jpg", "a/b/same.jpg", "картинки/снимок №1.jpg", "six.png"]
    for number, name in enumerate(names):
        kind = "PNG" if name.endswith("png") else "JPEG"
        (folder / name).write_bytes(image_bytes(picture(number), kind))
        (folder / name).with_suffix(".txt").write_text(caption(number))
    # A copy of the first at another quality, its caption in JSON.
    (folder / "copy.jpg").write_bytes(image_bytes(picture(0), quality=60))
    (folder / "copy.json").write_text(json.dumps({"caption": caption(6), "licence": "CC0", "note": "lone \ud800"}))
    (folder / "control.jpg").write_bytes(image_bytes(picture(7)))
    (folder / "control.txt").write_bytes(b"\xef\xbb\xbfA red\x00 kite\x1b[31m over\x07 the <|im_start|>beach at noon.")
    (folder / "shouted.jpg").write_bytes(image_bytes(picture(8)))
    (folder / "shouted.txt").write_text("THE BEST KITE over the WHOLE beach TODAY")
    (folder / "silent.jpg").write_bytes(image_bytes(picture(9)))
    (folder / "orphan.txt").write_text("A caption whose picture was lost long ago.")
    (folder / "broken.jpg").write_bytes(image_bytes(picture(10))[:600])
    (folder / "broken.txt").write_text(caption(10))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "empty.txt").write_text(caption(11))
    (folder / "notes.xyz").write_text("matches no pattern")


def _captioned(folder: Path) -> None:
    folder.mkdir()
    rows: list[Mapping[str, Any]] = []
    for number in (20, 21):
        (folder / f"{number}.jpg").write_bytes(image_bytes(picture(number)))
        rows.append({"file": f"{number}.jpg", "text": caption(number), "licence": "CC-BY-4.0"})
    rows.append({"file": "gone.jpg", "text": "Names a picture that is not there."})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _archive(folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / "good.tar", "w") as tar:
        for number in (30, 31, 32):
            add_member(tar, f"{number:05d}.jpg", image_bytes(picture(number)))
            add_member(tar, f"{number:05d}.txt", caption(number).encode())
        add_member(tar, "00030.jpg", image_bytes(picture(33)))  # a name that is there already
        add_member(tar, "../../evil.jpg", image_bytes(picture(34)))
        add_member(tar, "/abs.jpg", image_bytes(picture(35)))
        add_member(tar, "link.jpg", link="/etc/passwd")
        add_member(tar, "lonely.txt", b"A caption without a picture in the archive.")
    with tarfile.open(folder / "whole.tar", "w") as tar:
        for number in (36, 37):
            add_member(tar, f"{number}.jpg", image_bytes(picture(number)))
            add_member(tar, f"{number}.json", json.dumps({"caption": caption(number)}).encode())
    archive = (folder / "whole.tar").read_bytes()
    (folder / "whole.tar").unlink()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        last = tar.getmembers()[-1]
    (folder / "torn.tar").write_bytes(archive[: last.offset + 700])


def _llava(folder: Path) -> None:
    folder.mkdir()
    (folder / "pictures").mkdir()
    for number in (40, 41):
        (folder / "pictures" / f"{number}.jpg").write_bytes(image_bytes(picture(number)))
    turns = [
        {"from": "human", "value": "<image>\nWhat is standing there?"},
        {"from": "gpt", "value": caption(40)},
    ]
    rows = [
        {"id": "x/1", "image": "pictures/40.jpg", "conversations": turns},
        {"id": "x/1", "image": "pictures/41.jpg", "conversations": turns},
        {"id": "missing", "image": "pictures/nothing.jpg", "conversations": turns},
        {"id": "hostile", "image": "../photos/one.jpg", "conversations": turns},
    ]
    (folder / "llava.json").write_text(json.dumps(rows))


def _clips(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        write_clip(folder / f"{number}.mp4", 50 + number, frames=16 + number)
        (folder / f"{number}.txt").write_text(caption(500 + number))
    write_clip(folder / "still.mp4", 54, speed=0)
    (folder / "still.txt").write_text(caption(504))
    write_clip(folder / "silent.mp4", 55)
    (folder / "silent.txt").write_text("hm")
    (folder / "torn.mp4").write_bytes((folder / "0.mp4").read_bytes()[:1500])
    (folder / "torn.txt").write_text(caption(506))


def _texts(folder: Path) -> None:
    folder.mkdir()
    lines = [json.dumps({"id": f"t/{number}", "text": document(number)}) for number in range(36)]
    lines.append(json.dumps({"id": "t/0", "text": document(90)}))  # an id that is there already
    lines.append(json.dumps({"id": "again", "text": document(5)}))
    lines.append('{"id": "lone", "text": "' + document(91) + ' \\ud83d"}')
    lines.append('{"id": "torn", "text": "' + document(92))
    lines.append(json.dumps({"id": "short", "text": "Too short."}))
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")


def config(root: Path, store: Path | str, out: Path, **changes: Any) -> dict[str, Any]:
    """A configuration over the corpus, with every stage at work and no model that has to be downloaded."""
    content: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "store": str(store),
        "out": str(out),
        "sources": [
            {"name": "photos", "path": str(root / "photos"), "modality": "image", "licence": "CC-BY-SA-4.0"},
            {"name": "captioned", "path": str(root / "captioned"), "modality": "image", "captions": "captions.jsonl",
             "licence_column": "licence"},
            {"name": "archive", "path": str(root / "archive"), "modality": "image"},
            {"name": "llava", "path": str(root / "llava"), "modality": "image", "format": "llava", "id_column": "id"},
            {"name": "clips", "path": str(root / "clips"), "modality": "video"},
            {"name": "texts", "path": str(root / "texts"), "modality": "text", "id_column": "id"},
        ],
        "units": {"target_rows": 8},
        "measure": {"ngrams": {"vocabulary": str(root / "vocabulary.json")}},
        "filters": {
            "caption": None,
            "language": None,
            "quality": {"document": {"min_words": 10}},
            "facts": {"min_side": 32},
            "motion": {"min_score": 0.005},
        },
        "duplicates": {"image": {}, "video": {}, "text": {}},
        "resample": {"t": 1, "modalities": ["image"]},
        "export": {"shard_samples": 6},
    }  # fmt: skip
    return {**content, **changes}


def write_config(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))
    return path


def open_videos(
    folder: Path, name: str, videos: Path, annotate: Any, *, runner: Runner | None = None, batch: str | None = None,
    **changes: Any,
) -> Run:  # fmt: skip
    """A run over a folder of videos with `annotate`, in `folder`/`name`; `changes` are further keys of its config,
    "store" the name of one in `folder`."""
    content = {
        "name": "own", "store": str(folder / changes.pop("store", f"store-{name}")), "out": str(folder / name),
        "sources": [{"name": "v", "path": str(videos), "modality": "video"}], "annotate": annotate, **changes,
    }  # fmt: skip
    path = write_config(folder / f"{name}.yaml", content)
    return stages.open_for_work(str(path), out=None, replace=False, runner=runner or Runner(), quiet=True, batch=batch)
