"""The demo's world: a raw corpus with planted faults, and the truth about each of its samples.

    FOLDER/raw/clips           videos, the caption in a .txt beside each
    FOLDER/raw/reels           videos, the captions in captions.jsonl ("file", "text")
    FOLDER/raw/photos          pictures, the caption in a .json beside each
    FOLDER/raw/pairs           pictures and captions in WebDataset tars
    FOLDER/raw/notes           text, JSONL              FOLDER/raw/library   text, Parquet
    FOLDER/raw/albums          several pictures a sample, LLaVA's JSON
    FOLDER/raw/vocabulary.json n-grams to resample by
    FOLDER/truth/truth.jsonl   one object a sample: TRUTH
    FOLDER/truth/world.json    what was asked for, and counts

Only the scorer reads the truth. A sample has at most one fault, so every verdict has one right answer; for each kind
of fault there are hard negatives, which look a little like it and have nothing wrong.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import StageError
from infra.hashing import digest
from pipelines.demo import captions, footage
from pipelines.demo.footage import CODECS, ODD_CODECS, ODD_IMAGES, Change, Photo, RenderJob, Shot
from pipelines.demo.scenes import (
    COLOURS,
    PHOTOS,
    SHAPES,
    TINTS,
    DemoScene,
    Sign,
    Subject,
    generator,
    make_scene,
    split_of,
)

#: What the truth says of a sample.
#: source, container, position: as in the samples table. modality.
#: fault: "" or the filter that should name it ("duplicates", "motion", "overlay", "language", "alignment", "quality"),
#:     or "broken" (should become a failed row). kind: how it was made. hard: "" or what it is a hard negative for.
#: group: samples that are copies of each other share it; only copies have fault "duplicates".
#: resample: "", "head" (all its n-grams are frequent) or "tail" (one of them is rare).
#: form, width, height, caption: what it is.
TRUTH = (
    "source", "container", "position", "modality", "fault", "kind", "hard", "group", "resample", "form", "width",
    "height", "caption",
)  # fmt: skip

SOURCES = {
    "clips": "video", "reels": "video", "photos": "image", "pairs": "image", "notes": "text", "library": "text",
    "albums": "multi_image",
}  # fmt: skip

#: How many of each are planted at scale 1.
COUNTS = {
    "clean_video": 48, "clean_image": 90, "static": 45, "slow": 45, "burned": 45, "signs": 45,
    "copied_video": 45, "other_video": 44, "copied_image": 60, "other_image": 56,
    "language_video": 22, "language_image": 40, "names_video": 20, "names_image": 36,
    "swapped_video": 44, "swapped_image": 48, "alike_video": 40, "alike_image": 48,
    "quality_video": 24, "quality_image": 40, "brief_video": 20, "brief_image": 36,
    "broken_video": 45, "broken_image": 45, "odd_video": 40, "odd_image": 48,
    "head": 240, "tail": 48, "image_overlay": 44, "albums": 12,
    "clean_text": 2400, "copied_text": 90, "quoting_text": 60, "language_text": 60, "flavoured_text": 60,
    "poor_text": 60, "brief_text": 60,
}  # fmt: skip

_VIDEO_SIZES = ((240, 180), (192, 144), (256, 144), (144, 192), (320, 180), (224, 168), (144, 256), (320, 240))
_IMAGE_SIZES = ((320, 240), (240, 240), (400, 300), (256, 320), (384, 216), (288, 216), (216, 288), (448, 336))
_TIMES = ((10, 3.0), (15, 2.4), (12, 3.0), (24, 2.0), (10, 4.0), (20, 2.2), (30, 2.0))
_SIGNS = ("CAFE", "EXIT 12", "BAKERY", "MUSEUM", "TAXI", "OPEN", "HOTEL", "LIBRARY", "PARK 7", "STATION", "MARKET")
_BOARDS = (((248, 244, 228), (30, 30, 34)), ((20, 92, 60), (250, 250, 250)), ((24, 50, 120), (250, 250, 250)))
_SMALLEST = 128  # no side of any sound medium is shorter


@dataclass
class PlannedMedium:
    """A medium to be made and what is true of it."""

    modality: str
    name: str
    caption: str
    truth: dict[str, Any] = field(default_factory=dict)


@dataclass
class WorldPlan:
    """jobs: media to be made. planned: by name. texts: (source, text, truth). albums: (names, question, caption)."""

    jobs: list[RenderJob] = field(default_factory=list)
    planned: dict[str, PlannedMedium] = field(default_factory=dict)
    texts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    albums: list[tuple[list[str], str]] = field(default_factory=list)


def make_world(
    folder: str | Path,
    seed: int,
    *,
    scale: float = 1.0,
    workers: int = 2,
    mirrored: bool = False,
    image_overlays: bool = False,
) -> dict[str, Any]:
    """Make the world of `seed` in `folder` and return what is in it: {"seed", "samples", "faults", "hard"}.

    The same arguments but `workers` give the same bytes on one machine. scale: of every count, for tests.
    mirrored: some copies are mirrored too (a descriptor that is to find them must be made for it).
    image_overlays: burned-in text and signs are planted on pictures as well as on videos.
    A folder that already holds this world is left as it is. Raises StageError when it holds anything else.
    """
    folder = Path(folder)
    summary_file = folder / "truth" / "world.json"
    asked = {"seed": seed, "scale": scale, "mirrored": mirrored, "image_overlays": image_overlays}
    if summary_file.exists():
        held: dict[str, Any] = json.loads(summary_file.read_text("utf-8"))
        if held["asked"] == asked:
            return held
        raise StageError("this folder holds another world", where=str(folder), hint="give another folder")
    if (folder / "raw").exists() and any((folder / "raw").iterdir()):
        raise StageError("this folder holds a half-made world", where=str(folder / "raw"), hint="remove it")
    plan = Planner(seed, scale, mirrored, image_overlays).plan()
    rows = list(_write(plan, folder / "raw", _made(plan.jobs, workers)))
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    with (folder / "truth" / "truth.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
    faults = Counter(f"{row['fault']}.{row['modality']}" for row in rows if row["fault"])
    hard = Counter(f"{row['hard']}.{row['modality']}" for row in rows if row["hard"])
    summary = {
        "asked": asked,
        "samples": len(rows),
        "faults": dict(sorted(faults.items())),
        "hard": dict(sorted(hard.items())),
    }
    summary_file.write_text(json.dumps(summary, sort_keys=True, indent=1) + "\n", "utf-8")
    return summary


def read_truth(folder: str | Path) -> list[dict[str, Any]]:
    """The truth of the world in `folder`, one dict a sample with the fields in TRUTH."""
    with (Path(folder) / "truth" / "truth.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _made(jobs: list[RenderJob], workers: int) -> Iterator[tuple[str, bytes]]:
    if workers <= 1:
        for job in jobs:
            yield from footage.make(job)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for made in pool.imap(footage.make, jobs, chunksize=4):
            yield from made


# ---------------------------------------------------------------- plan


class Planner:
    """Decides what there is, before anything is rendered. Every choice hangs on the seed and on a name."""

    def __init__(self, seed: int, scale: float, mirrored: bool, image_overlays: bool) -> None:
        self._seed = seed
        self._mirrored = mirrored
        self._n = {kind: max(2, round(count * scale)) for kind, count in COUNTS.items()}
        if not image_overlays:
            self._n["image_overlay"] = 0
        self._plan = WorldPlan()
        self._serial = 0

    def plan(self) -> WorldPlan:
        for step in (
            self._clean, self._static, self._overlays, self._copied_videos, self._copied_images, self._others,
            self._languages, self._swapped, self._alike, self._quality, self._broken, self._odd, self._resample,
            self._albums, self._texts,
        ):  # fmt: skip
            step()
        return self._plan

    # -- drawing

    def _rng(self, *purpose: str) -> np.random.Generator:
        return generator(self._seed, "world", *purpose)

    def _name(self) -> str:
        """A name that tells nothing of what is behind it."""
        self._serial += 1
        return digest(f"{self._seed} name {self._serial}".encode(), size=6).hex()

    def _scene(self, *name: str, **fixed: Any) -> DemoScene:
        return make_scene(self._seed, "demo", "/".join(name), **fixed)

    def _lively(self, *name: str, **fixed: Any) -> DemoScene:
        """A scene in which plainly something moves: the camera, or a large subject that travels."""
        for attempt in range(50):
            scene = self._scene(*name, str(attempt), **fixed)
            travels = any(s.size == "large" and s.move != "spin" for s in scene.subjects)
            if scene.camera != "still" or travels:
                return scene
        return replace(scene, camera="pan left")

    def _shot(self, i: int, scene: DemoScene, **more: Any) -> Shot:
        """Codecs, sizes and rates take turns, each at its own pace, so that they meet in every combination."""
        width, height = _VIDEO_SIZES[(i + i // len(CODECS)) % len(_VIDEO_SIZES)]
        fps, seconds = _TIMES[i % len(_TIMES)]
        fields = {
            "codec": list(CODECS)[i % len(CODECS)],
            "width": width,
            "height": height,
            "fps": fps,
            "seconds": seconds,
        }
        return Shot(self._name(), scene, **{**fields, **more})

    def _photo(self, i: int, scene: DemoScene, **more: Any) -> Photo:
        width, height = _IMAGE_SIZES[(i + i // len(footage.IMAGES)) % len(_IMAGE_SIZES)]
        fields = {
            "form": footage.IMAGES[i % len(footage.IMAGES)],
            "width": width,
            "height": height,
            "quality": 84 + i % 12,
        }
        return Photo(self._name(), scene, **{**fields, **more})

    def _add(
        self, medium: Shot | Photo, caption: str, damage: str = "", copies: tuple[Change, ...] = (), **truth: Any
    ) -> None:
        video = isinstance(medium, Shot)
        self._plan.jobs.append(RenderJob(medium, copies, damage))
        form = medium.codec if isinstance(medium, Shot) else medium.form
        facts = {"form": form, "width": medium.width, "height": medium.height, "suffix": medium.suffix}
        self._plan.planned[medium.name] = PlannedMedium(
            "video" if video else "image", medium.name, caption, {**facts, **truth}
        )
        for copy in copies:
            kind = [word for word, is_so in (
                ("cut", copy.cut != (0.0, 0.0)), ("cropped", any(copy.crop)), ("scaled", copy.scale != 1.0),
                ("mirrored", copy.mirror),
            ) if is_so] or ["re-encoded"]  # fmt: skip
            facts = {"form": copy.form, "width": 0, "height": 0, "suffix": copy.suffix}
            same = {"fault": "duplicates", "kind": "+".join(kind), "group": truth["group"]}
            self._plan.planned[copy.name] = PlannedMedium(
                "video" if video else "image", copy.name, caption, {**facts, **same}
            )

    def _caption(self, scene: DemoScene, style: str, *purpose: str, still: bool = False) -> str:
        return captions.good_caption(scene, style, self._rng("caption", *purpose), still=still)

    # -- what is planted

    def _clean(self) -> None:
        for i in range(self._n["clean_video"]):
            scene = self._lively("clean video", str(i))
            self._add(self._shot(i, scene), self._caption(scene, _style(i), "clean video", str(i)))
        for i in range(self._n["clean_image"]):
            scene = self._scene("clean image", str(i))
            self._add(self._photo(i, scene), self._caption(scene, _style(i), "clean image", str(i), still=True))

    def _static(self) -> None:
        for i in range(self._n["static"]):
            scene = self._scene("static", str(i))
            how = footage.STATICS[i % 3]
            text = self._caption(scene, "plain", "static", str(i), still=True)
            self._add(self._shot(i, scene, static=how), text, fault="motion", kind=how)
        for i in range(self._n["slow"]):
            rng = self._rng("slow", str(i))
            scene = self._lively("slow", str(i), subjects_n=1)
            if i % 3 < 2:  # the camera creeps
                camera = ("pan left", "tilt up", "pan right", "tilt down")[i % 4]
                scene = replace(scene, camera=camera, camera_speed=float(rng.uniform(0.018, 0.026)))
                kind = "slow camera"
            else:  # one thing wanders through a still picture
                subject = replace(scene.subjects[0], size="large", count=1, radius=0.3, move="left", speed=0.075)
                scene = replace(scene, camera="still", subjects=(subject,))
                kind = "slow subject"
            self._add(self._shot(i, scene), self._caption(scene, "plain", "slow", str(i)), hard="motion", kind=kind)

    def _overlays(self) -> None:
        for i in range(self._n["burned"]):
            scene = self._lively("burned", str(i))
            kind = footage.VIDEO_OVERLAYS[i % len(footage.VIDEO_OVERLAYS)]
            text = self._caption(scene, "plain", "burned", str(i))
            self._add(self._shot(i, scene, overlay=kind), text, fault="overlay", kind=kind)
        for i in range(self._n["signs"]):
            scene = self._with_sign("signs", str(i), labelled=i % 4 == 3)
            kind = "label" if i % 4 == 3 else "sign"
            self._add(self._shot(i, scene), self._caption(scene, "plain", "signs", str(i)), hard="overlay", kind=kind)
        for i in range(self._n["image_overlay"]):
            scene = self._scene("image burned", str(i))
            kind = footage.IMAGE_OVERLAYS[i % len(footage.IMAGE_OVERLAYS)]
            text = self._caption(scene, "plain", "image burned", str(i), still=True)
            self._add(self._photo(i, scene, overlay=kind), text, fault="overlay", kind=kind)
            scene = self._with_sign("image signs", str(i), labelled=False)
            text = self._caption(scene, "plain", "image signs", str(i), still=True)
            self._add(self._photo(i, scene), text, hard="overlay", kind="sign")

    def _with_sign(self, *name: str, labelled: bool) -> DemoScene:
        """A scene with lettering of its own: on a board in the photograph, or on the thing that moves."""
        rng = self._rng("sign", *name)
        text = _SIGNS[int(rng.integers(len(_SIGNS)))]
        scene = self._lively(*name, subjects_n=1)
        subject = scene.subjects[0]
        if labelled:
            move = ("left", "right", "up", "down")[int(rng.integers(4))]
            shape = ("ball", "house", "car", "balloon")[int(rng.integers(4))]
            for colour in COLOURS:
                labelled_one = replace(
                    subject, colour=colour, shape=shape, texture="plain", size="large", count=1, radius=0.3, x=0.5,
                    y=0.5, move=move, speed=0.16, label=text.split(" ")[0][:6],
                )  # fmt: skip
                found = replace(scene, subjects=(labelled_one,))
                if split_of(found.attributes) == "demo":
                    return found
        camera = ("pan left", "pan right", "tilt up", "tilt down")[int(rng.integers(4))]
        left = bool(rng.integers(2))
        board, ink = _BOARDS[int(rng.integers(len(_BOARDS)))]
        sign = Sign(
            text, 0.4 if left else 0.6, float(rng.uniform(0.44, 0.56)), float(rng.uniform(0.17, 0.22)),
            float(rng.uniform(0.2, 0.7)), (board, ink), float(rng.uniform(-0.14, 0.14)),
        )  # fmt: skip
        aside = replace(subject, x=0.72 if left else 0.28, size="small", radius=0.15, count=1)
        return replace(
            scene, subjects=(aside,), signs=(sign,), camera=camera, camera_speed=float(rng.uniform(0.06, 0.085))
        )

    def _copied_videos(self) -> None:
        wanted = self._n["copied_video"]
        i = made = 0
        while made < wanted:
            rng = self._rng("copied video", str(i))
            scene = self._lively("copied video", str(i))
            long = i % 4 == 1
            width, height = ((320, 240), (256, 192), (320, 180), (192, 256))[i % 4]
            shot = self._shot(i, scene, width=width, height=height, **({"fps": 12, "seconds": 5.0} if long else {}))
            copies = []
            for k in range(min(2 if i % 3 == 0 else 1, wanted - made)):
                codec = list(CODECS)[(i + 1 + 3 * k) % len(CODECS)]
                change = Change(self._name(), codec)
                kind = (i + k) % 4
                if long and k == 0:
                    start = float(rng.choice([1.0, 1.5, 2.0]))
                    change = replace(change, cut=(start, start + 2.5))
                elif kind == 2:
                    change = replace(change, scale=_scale(rng, width, height))
                elif kind == 3:
                    change = replace(change, crop=_crop(rng))
                if self._mirrored and i % 5 == 4:
                    change = replace(change, mirror=True)
                copies.append(change)
            made += len(copies)
            text = self._caption(scene, "plain", "copied video", str(i))
            self._add(shot, text, copies=tuple(copies), group=f"video-{i}", kind="original")
            i += 1

    def _copied_images(self) -> None:
        wanted = self._n["copied_image"]
        i = made = 0
        while made < wanted:
            rng = self._rng("copied image", str(i))
            scene = self._scene("copied image", str(i))
            photo = self._photo(i, scene)
            copies = []
            for k in range(min(1 + (i % 4 == 0), wanted - made)):
                change = Change(
                    self._name(), ("jpg", "webp", "jpg", "png")[(i + k) % 4], quality=int(rng.integers(45, 80))
                )
                kind = (i + k) % 3
                if kind != 1:
                    change = replace(change, scale=_scale(rng, photo.width, photo.height))
                if kind != 0:
                    change = replace(change, crop=_crop(rng))
                if self._mirrored and i % 5 == 4:
                    change = replace(change, mirror=True)
                copies.append(change)
            made += len(copies)
            text = self._caption(scene, "plain", "copied image", str(i), still=True)
            self._add(photo, text, copies=tuple(copies), group=f"image-{i}", kind="original")
            i += 1

    def _others(self) -> None:
        """Other pictures and clips of the same thing: one photograph, another part of it, other subjects and paths."""
        for modality in ("video", "image"):
            for i in range(self._n[f"other_{modality}"] // 2):
                name = (f"other {modality}", str(i))
                rng = self._rng(*name)
                stereo = i % 3 == 0
                tint = TINTS[int(rng.integers(len(TINTS)))]
                pool = [p for p in PHOTOS["demo"] if p != "brick" and p != "motorcycle_right"]
                photo = "motorcycle_left" if stereo else pool[int(rng.integers(len(pool)))]
                make = self._lively if modality == "video" else self._scene
                first = make(*name, "a", photo=photo, tint=tint, subjects_n=1)
                second = self._unlike(
                    first, make, *name, "b", photo="motorcycle_right" if stereo else photo, tint=tint, subjects_n=1
                )
                second = replace(second, crop_x=1 - first.crop_x, crop_y=1 - first.crop_y, crop=min(first.crop, 0.8))
                for k, scene in enumerate((first, second)):
                    text = self._caption(scene, "plain", *name, str(k), still=modality == "image")
                    kind = "stereo pair" if stereo else "same photograph"
                    medium = self._shot(2 * i + k, scene) if modality == "video" else self._photo(2 * i + k, scene)
                    self._add(medium, text, hard="duplicates", kind=kind)

    def _unlike(self, scene: DemoScene, make: Any, *name: str, **fixed: Any) -> DemoScene:
        """A scene that shares no colour and no shape with `scene` (and no tint, unless it is fixed)."""
        for attempt in range(200):
            other: DemoScene = make(*name, "unlike", str(attempt), **fixed)
            mine = {w for s in scene.subjects for w in (s.colour, s.shape)}
            theirs = {w for s in other.subjects for w in (s.colour, s.shape)}
            if not mine & theirs and ("tint" in fixed or scene.tint != other.tint):
                return other
        raise StageError("no scene is unlike enough")

    def _languages(self) -> None:
        for i in range(self._n["language_video"] + self._n["language_image"]):
            video = i < self._n["language_video"]
            scene = self._lively("language", str(i)) if video else self._scene("language", str(i))
            language = captions.LANGUAGES[i % len(captions.LANGUAGES)]
            text = captions.other_language(scene, language, self._rng("language", str(i)))
            self._add(self._shot(i, scene) if video else self._photo(i, scene), text, fault="language", kind=language)
        for i in range(self._n["names_video"] + self._n["names_image"]):
            video = i < self._n["names_video"]
            scene = self._lively("names", str(i)) if video else self._scene("names", str(i))
            style = ("named", "foreign_words")[i % 2]
            text = self._caption(scene, style, "names", str(i), still=not video)
            self._add(self._shot(i, scene) if video else self._photo(i, scene), text, hard="language", kind=style)

    def _swapped(self) -> None:
        for modality in ("video", "image"):
            for i in range(self._n[f"swapped_{modality}"] // 2):
                name = (f"swapped {modality}", str(i))
                make = self._lively if modality == "video" else self._scene
                first = make(*name, "a")
                second = self._unlike(first, make, *name, "b")
                texts = [self._caption(s, "plain", *name, s.tint, still=modality == "image") for s in (second, first)]
                for k, scene in enumerate((first, second)):
                    medium = self._shot(2 * i + k, scene) if modality == "video" else self._photo(2 * i + k, scene)
                    self._add(medium, texts[k], fault="alignment", kind="swapped")

    def _alike(self) -> None:
        """Scenes whose captions are the same but for one word, each with its own caption."""
        for modality in ("video", "image"):
            for i in range(self._n[f"alike_{modality}"] // 2):
                name = (f"alike {modality}", str(i))
                make = self._lively if modality == "video" else self._scene
                first: DemoScene = make(*name, subjects_n=1)
                changed, second = self._one_word_off(first, make, *name)
                for k, scene in enumerate((first, second)):
                    text = self._caption(scene, "plain", *name, still=modality == "image")
                    medium = self._shot(2 * i + k, scene) if modality == "video" else self._photo(2 * i + k, scene)
                    self._add(medium, text, hard="alignment", kind=f"another {changed}")

    def _one_word_off(self, first: DemoScene, make: Any, *name: str) -> tuple[str, DemoScene]:
        subject: Subject = first.subjects[0]
        options = [("colour", replace(subject, colour=c)) for c in COLOURS if c != subject.colour]
        options += [("shape", replace(subject, shape=s)) for s in SHAPES if s != subject.shape]
        order = self._rng("one word", *name).permutation(len(options))
        for at in order:
            word, other = options[int(at)]
            if split_of((first.tint, f"{other.colour} {other.shape}")) == "demo":
                elsewhere: DemoScene = make(*name, "elsewhere", tint=first.tint, subjects_n=1)
                return word, replace(elsewhere, subjects=(other,), camera=first.camera)
        raise StageError("no caption is one word off")

    def _quality(self) -> None:
        for i in range(self._n["quality_video"] + self._n["quality_image"]):
            video = i < self._n["quality_video"]
            scene = self._lively("quality", str(i)) if video else self._scene("quality", str(i))
            rng = self._rng("quality", str(i))
            kind = ("shouted", "too short")[i % 2]
            good = self._caption(scene, "plain", "quality", str(i), still=not video)
            text = captions.shouted(good, rng) if kind == "shouted" else captions.too_short(scene, rng)
            self._add(self._shot(i, scene) if video else self._photo(i, scene), text, fault="quality", kind=kind)
        for i in range(self._n["brief_video"] + self._n["brief_image"]):
            video = i < self._n["brief_video"]
            scene = self._lively("brief", str(i)) if video else self._scene("brief", str(i))
            style = ("brief", "capitals")[i % 2]
            text = self._caption(scene, style, "brief", str(i), still=not video)
            self._add(self._shot(i, scene) if video else self._photo(i, scene), text, hard="quality", kind=style)

    def _broken(self) -> None:
        for modality in ("video", "image"):
            for i in range(self._n[f"broken_{modality}"]):
                scene = self._lively("broken", modality, str(i))
                text = self._caption(scene, "plain", "broken", modality, str(i), still=modality == "image")
                how = footage.BREAKS[i % len(footage.BREAKS)]
                j = i // len(footage.BREAKS) + i  # so that each way of breaking meets each format
                medium = self._shot(j, scene, seconds=2.0) if modality == "video" else self._photo(j, scene)
                self._add(medium, text, damage=how, fault="broken", kind=how)

    def _odd(self) -> None:
        for i in range(self._n["odd_video"]):
            codec = list(ODD_CODECS)[i % len(ODD_CODECS)]
            grey = codec == "h264-grey"
            scene = self._colourless("odd video", str(i), lively=True) if grey else self._lively("odd video", str(i))
            odd = {"width": 191, "height": 143} if codec == "h264-444" else {}
            text = self._caption(scene, "plain", "odd video", str(i))
            self._add(self._shot(i, scene, codec=codec, **odd), text, hard="broken", kind=codec)
        for i in range(self._n["odd_image"]):
            form = ODD_IMAGES[i % len(ODD_IMAGES)]
            grey = form.startswith("grey")
            scene = self._colourless("odd image", str(i)) if grey else self._scene("odd image", str(i))
            text = self._caption(scene, "plain", "odd image", str(i), still=True)
            self._add(self._photo(i, scene, form=form), text, hard="broken", kind=form)

    def _colourless(self, *name: str, lively: bool = False) -> DemoScene:
        """Black and white things on a grey photograph: its caption stays true without colour."""
        for attempt in range(500):
            scene = (self._lively if lively else self._scene)(*name, str(attempt), tint="grey", subjects_n=1)
            if scene.subjects[0].colour in ("black", "white"):
                return scene
        raise StageError("no scene without colour")

    def _resample(self) -> None:
        """Many pictures of a few things, and some of these with the name of a place that hardly occurs."""
        rng = self._rng("heads")
        colours, shapes = rng.permutation(list(COLOURS)), rng.permutation(SHAPES)
        heads = [(str(colours[k]), str(shapes[k])) for k in range(6)]
        shares = np.cumsum([0.32, 0.24, 0.17, 0.12, 0.09, 0.06])
        for i in range(self._n["head"] + self._n["tail"]):
            tail = i >= self._n["head"]
            rng = self._rng("head", str(i))
            colour, shape = heads[int(np.searchsorted(shares, rng.random() * 0.999))]
            scene = self._of_thing(colour, shape, "head", str(i))
            place = captions.PLACES[i % len(captions.PLACES)]
            text = captions.good_caption(
                scene, "placed" if tail else "plain", self._rng("caption", "head", str(i)), still=True, place=place
            )
            self._add(self._photo(i, scene), text, resample="tail" if tail else "head", kind=f"{colour} {shape}")

    def _of_thing(self, colour: str, shape: str, *name: str) -> DemoScene:
        for attempt in range(200):
            scene = self._scene(*name, str(attempt), subjects_n=1)
            found = replace(scene, subjects=(replace(scene.subjects[0], colour=colour, shape=shape),))
            if split_of(found.attributes) == "demo":
                return found
        raise StageError(f"no scene of a {colour} {shape}")

    def _albums(self) -> None:
        for i in range(self._n["albums"]):
            names, said = [], []
            for k in range(2 + i % 2):
                scene = self._scene("albums", str(i), str(k))
                photo = self._photo(i + k, scene, form=("jpg", "png", "webp")[k])
                self._plan.jobs.append(RenderJob(photo))
                names.append(f"{photo.name}.{photo.suffix}")
                said.append(self._caption(scene, "plain", "albums", str(i), str(k), still=True))
            order = ("The first", "The second", "The third")
            answer = " ".join(f"{order[k]}: {text[0].lower()}{text[1:]}" for k, text in enumerate(said))
            self._plan.albums.append((names, answer))

    # -- text

    def _texts(self) -> None:
        rows: list[tuple[str, dict[str, Any]]] = []
        n = self._n
        clean = [captions.paragraph(self._rng("text", str(i))) for i in range(n["clean_text"])]
        rows += [(text, {}) for text in clean]
        for i in range(n["copied_text"]):
            rng = self._rng("copied text", str(i))
            original = captions.paragraph(rng, 90, 150)
            exact = i % 3 == 0
            copy = original if exact else captions.nearly_same(original, rng)
            group = f"text-{i}"
            rows.append((original, {"group": group, "kind": "original"}))
            rows.append((copy, {"fault": "duplicates", "group": group, "kind": "exact" if exact else "near"}))
        for i in range(n["quoting_text"]):
            text = captions.shares_a_sentence(clean[i], self._rng("quoting", str(i)))
            rows.append((text, {"hard": "duplicates", "kind": "quotes a sentence"}))
        for i in range(n["language_text"]):
            language = captions.LANGUAGES[i % len(captions.LANGUAGES)]
            text = captions.other_document(language, self._rng("language text", str(i)))
            rows.append((text, {"fault": "language", "kind": language}))
        for i in range(n["flavoured_text"]):
            text = captions.foreign_flavoured(self._rng("flavoured", str(i)))
            rows.append((text, {"hard": "language", "kind": "foreign words"}))
        for i in range(n["poor_text"]):
            kind, text = captions.poor_document(self._rng("poor", str(i)))
            rows.append((text, {"fault": "quality", "kind": kind}))
        for i in range(n["brief_text"]):
            text = captions.brief_document(self._rng("brief text", str(i)))
            rows.append((text, {"hard": "quality", "kind": "brief"}))
        order = self._rng("order of texts").permutation(len(rows))
        self._plan.texts = [rows[int(k)] for k in order]


def _style(i: int) -> str:
    return ("plain", "plain", "named", "placed")[i % 4]


def _scale(rng: np.random.Generator, width: int, height: int) -> float:
    """Smaller or a little larger, with every side at least `_SMALLEST` even after a crop of 20 %."""
    least = _SMALLEST / (0.8 * min(width, height))
    scale = 1.3 if rng.random() < 0.2 else float(rng.uniform(0.55, 0.85))
    return max(scale, least)


def _crop(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """3 to 10 % off every side."""
    left, top, right, bottom = (float(v) for v in rng.uniform(0.03, 0.10, 4))
    return left, top, right, bottom


# ---------------------------------------------------------------- write


def _write(plan: WorldPlan, raw: Path, made: Iterator[tuple[str, bytes]]) -> Iterator[dict[str, Any]]:
    """Writes the corpus, and yields the truth of each sample in it."""
    for source in SOURCES:
        (raw / source).mkdir(parents=True, exist_ok=True)
    reels: list[dict[str, str]] = []
    pairs: list[tuple[str, str, bytes, str]] = []
    loose = {name.partition(".")[0]: name for names, _ in plan.albums for name in names}
    for name, data in made:
        if name in loose:
            (raw / "albums" / loose[name]).write_bytes(data)
            continue
        planned = plan.planned[name]
        shelf, suffix = name[:1], planned.truth.pop("suffix")
        second = int(name[-1], 16) % 2 == 1
        if planned.modality == "video":
            source, container, position = ("reels" if second else "clips"), f"{shelf}/{name}.{suffix}", ""
            _put(raw / source / container, data)
            if second:
                reels.append({"file": container, "text": planned.caption})
            else:
                _put(raw / source / shelf / f"{name}.txt", planned.caption.encode())
        elif second:
            number = int(name[:2], 16) % 3
            source, container, position = "pairs", f"pairs-{number:03d}.tar", f"{name}.{suffix}"
            pairs.append((container, position, data, planned.caption))
        else:
            source, container, position = "photos", f"{shelf}/{name}.{suffix}", ""
            _put(raw / source / container, data)
            side = json.dumps({"caption": planned.caption, "author": "the demo"}, ensure_ascii=False)
            _put(raw / source / shelf / f"{name}.json", side.encode())
        yield _truth(source, container, position, planned.modality, planned.caption, planned.truth)
    with (raw / "reels" / "captions.jsonl").open("w", encoding="utf-8") as file:
        for row in reels:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    _write_pairs(raw / "pairs", pairs)
    yield from _write_albums(raw / "albums", plan)
    yield from _write_texts(raw, plan)
    (raw / "vocabulary.json").write_text(
        json.dumps(captions.vocabulary(), ensure_ascii=False, indent=0) + "\n", "utf-8"
    )


def _truth(
    source: str, container: str, position: str, modality: str, caption: str, said: dict[str, Any]
) -> dict[str, Any]:
    row = {name: 0 if name in ("width", "height") else "" for name in TRUTH}
    where = {"source": source, "container": container, "position": position, "modality": modality, "caption": caption}
    return {**row, **where, **said}


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_pairs(folder: Path, pairs: list[tuple[str, str, bytes, str]]) -> None:
    for container in sorted({pair[0] for pair in pairs}):
        with tarfile.open(folder / container, "w", format=tarfile.USTAR_FORMAT) as archive:
            for _, name, data, caption in sorted(pair for pair in pairs if pair[0] == container):
                for member, payload in ((name, data), (name.partition(".")[0] + ".txt", caption.encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(payload)
                    archive.addfile(info, io.BytesIO(payload))


def _write_albums(folder: Path, plan: WorldPlan) -> Iterator[dict[str, Any]]:
    rows = []
    for i, (names, answer) in enumerate(plan.albums):
        question = "<image>\n" * len(names) + "What do these pictures show?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        rows.append({"id": f"album-{i:03d}", "image": names, "conversations": turns})
        yield _truth("albums", "albums.json", f"album-{i:03d}", "multi_image", answer, {"form": "llava"})
    (folder / "albums.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _write_texts(raw: Path, plan: WorldPlan) -> Iterator[dict[str, Any]]:
    half = len(plan.texts) // 2
    notes, library = plan.texts[:half], plan.texts[half:]
    with (raw / "notes" / "notes.jsonl").open("w", encoding="utf-8") as file:
        for number, (text, said) in enumerate(notes):
            file.write(json.dumps({"text": text, "shelf": number % 7}, ensure_ascii=False) + "\n")
            yield _truth("notes", "notes.jsonl", f"row={number}", "text", text, said)
    table = pa.table({"text": [text for text, _ in library], "shelf": [i % 7 for i in range(len(library))]})
    pq.write_table(table, raw / "library" / "library.parquet", compression="zstd")
    for number, (text, said) in enumerate(library):
        yield _truth("library", "library.parquet", f"row={number}", "text", text, said)
