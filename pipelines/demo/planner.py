"""The plan of a demo world: which media, texts and albums it has, before anything is rendered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from infra.hashing import digest
from pipelines.demo import captions
from pipelines.demo.footage import CODECS, IMAGES, Change, Photo, RenderJob, Shot
from pipelines.demo.scenes import DemoScene, generator, make_scene

_VIDEO_SIZES = ((240, 180), (192, 144), (256, 144), (144, 192), (320, 180), (224, 168), (144, 256), (320, 240))
_IMAGE_SIZES = ((320, 240), (240, 240), (400, 300), (256, 320), (384, 216), (288, 216), (216, 288), (448, 336))
_TIMES = ((10, 3.0), (15, 2.4), (12, 3.0), (24, 2.0), (10, 4.0), (20, 2.2), (30, 2.0))


@dataclass
class PlannedMedium:
    """A medium to be rendered, its caption and the truth about it."""

    modality: str
    name: str
    caption: str
    truth: dict[str, Any] = field(default_factory=dict)


@dataclass
class WorldPlan:
    """jobs: media to be rendered. planned: by name. texts: (text, truth). albums: (file names, caption)."""

    jobs: list[RenderJob] = field(default_factory=list)
    planned: dict[str, PlannedMedium] = field(default_factory=dict)
    texts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    albums: list[tuple[list[str], str]] = field(default_factory=list)


class Planner:
    """Adds media to a plan. Every choice is a function of the seed and of a name.

    counts: how many of each kind are planted. mirrored: some copies are mirrored too.
    """

    def __init__(self, seed: int, counts: dict[str, int], *, mirrored: bool) -> None:
        self.seed = seed
        self.counts = counts
        self.mirrored = mirrored
        self.plan = WorldPlan()
        self._serial = 0

    # -- drawing

    def rng(self, *purpose: str) -> np.random.Generator:
        return generator(self.seed, "world", *purpose)

    def new_name(self) -> str:
        """A file name that reveals nothing about its content."""
        self._serial += 1
        return digest(f"{self.seed} name {self._serial}".encode(), size=6).hex()

    def scene(self, *name: str, video: bool, **fixed: Any) -> DemoScene:
        """A scene for a picture, or for a video one in which something moves visibly: the camera, or a large subject
        that travels."""
        if not video:
            return make_scene(self.seed, "demo", "/".join(name), **fixed)
        for attempt in range(50):
            scene = self.scene(*name, str(attempt), video=False, **fixed)
            travels = any(s.size == "large" and s.move != "spin" for s in scene.subjects)
            if scene.camera != "still" or travels:
                return scene
        return replace(scene, camera="pan left")

    def caption(self, scene: DemoScene, style: str, *purpose: str, still: bool) -> str:
        return captions.good_caption(scene, style, self.rng("caption", *purpose), still=still)

    def shot(self, i: int, scene: DemoScene, **changes: Any) -> Shot:
        """The i-th video. Codecs, sizes and rates rotate with different periods and so meet in every combination."""
        width, height = _VIDEO_SIZES[(i + i // len(CODECS)) % len(_VIDEO_SIZES)]
        fps, seconds = _TIMES[i % len(_TIMES)]
        defaults = {"codec": list(CODECS)[i % len(CODECS)], "width": width, "height": height}
        return Shot(self.new_name(), scene, **{**defaults, "fps": fps, "seconds": seconds, **changes})

    def photo(self, i: int, scene: DemoScene, **changes: Any) -> Photo:
        """The i-th picture; formats and sizes rotate."""
        width, height = _IMAGE_SIZES[(i + i // len(IMAGES)) % len(_IMAGE_SIZES)]
        defaults = {"form": IMAGES[i % len(IMAGES)], "width": width, "height": height, "quality": 84 + i % 12}
        return Photo(self.new_name(), scene, **{**defaults, **changes})

    # -- adding

    def add(self, i: int, scene: DemoScene, caption: str, *, video: bool, damage: str = "", **truth: Any) -> None:
        """Plan the i-th video or picture of a kind."""
        self.add_medium(self.shot(i, scene) if video else self.photo(i, scene), caption, damage, **truth)

    def add_medium(
        self, medium: Shot | Photo, caption: str, damage: str = "", copies: tuple[Change, ...] = (), **truth: Any
    ) -> None:
        """Plan a medium and its copies; `truth` needs a group where there are copies."""
        modality, form = ("video", medium.codec) if isinstance(medium, Shot) else ("image", medium.form)
        self.plan.jobs.append(RenderJob(medium, copies, damage))
        facts = {"form": form, "width": medium.width, "height": medium.height, "suffix": medium.suffix}
        self.plan.planned[medium.name] = PlannedMedium(modality, medium.name, caption, {**facts, **truth})
        for copy in copies:
            facts = {
                **{"form": copy.form, "width": 0, "height": 0, "suffix": copy.suffix},
                **{"fault": "duplicates", "kind": copy.kind, "group": truth["group"]},
            }
            self.plan.planned[copy.name] = PlannedMedium(modality, copy.name, caption, facts)
