"""The optional stage: `reelmill train CONFIG` runs Apollo's align, vision and sft, to prove that mixtures train.

One process, or as many as torchrun starts; all of them together take the same samples in the same steps. A training
that was killed goes on at the next sample when the same command is given again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import models, storage
from infra.commit import lock, read_json
from infra.config import ConfigDocument, read_document, validate
from infra.errors import ConfigError
from infra.hashing import canonical_json, draw_integers, file_sha256, fingerprint
from infra.progress import watch
from mixtures.loader import Loader
from mixtures.reading.apollo_stages import STAGES
from mixtures.reading.contract import Contract
from mixtures.shards.manifest import Mixture, open_mixture
from pipelines.train import checkpoint, curve, stages
from pipelines.train.model import PARTS, Collate, build, to_device, transformers
from pipelines.train.settings import FREE, Training, identity
from pipelines.train.stages import Ranks, ResolvedStage, joined

#: Raised when what a training's folder holds changes its meaning.
VERSION = 1

CHECKPOINT, LOG, KEYS, PICTURE = "checkpoint.safetensors", "log.jsonl", "keys.jsonl", "loss.png"


@dataclass(frozen=True)
class PlannedStage:
    """A stage with everything that it needs. steps_an_epoch: of the optimizer; reads: the loader's steps that make one
    of them."""

    name: str
    settings: ResolvedStage
    loader: Loader
    steps_an_epoch: int
    reads: int

    @property
    def peak(self) -> Mapping[str, float]:
        return self.settings.peak

    @property
    def steps(self) -> int:
        return self.steps_an_epoch * self.settings.epochs

    @property
    def samples(self) -> int:
        return self.loader.order.total * self.settings.epochs

    def taken(self, steps: int) -> int:
        """Samples that lie behind so many steps; the last of an epoch may hold fewer."""
        epochs, within = divmod(steps, self.steps_an_epoch)
        return epochs * self.loader.order.total + within * self.settings.batch


def run(path: str, *, out: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train as the config says, or go on where a training in the same folder stopped; returns what `--json` prints.

    Raises ConfigError for mistakes in the config, StageError where data or loss go wrong, MissingExtra.
    """
    document = read_document(path)
    if out is not None:
        document = ConfigDocument(document.path, {**document.content, "out": out}, document.lines)
    settings = validate(document, Training, document.content)
    if not storage.is_local(settings.out):
        raise ConfigError("a training's folder has to be on a file system", where=document.where(("out",)))
    transformers()
    with joined(settings.device) as ranks, lock(settings.out) if ranks.rank == 0 else contextlib.nullcontext():
        return Trainer(settings, document, ranks, quiet or ranks.rank > 0).run()


class Trainer:
    """One training from its beginning, or from its checkpoint, to its end. Only rank 0 writes and speaks.

    OUT/train.json: what is trained from what. OUT/log.jsonl, keys.jsonl: a line a step; a training that went on has the
    same as one that was never disturbed. OUT/checkpoint.safetensors: where it stands. OUT/STAGE.safetensors: all
    weights trained up to the end of a stage. OUT/loss.png: the curve, where matplotlib is installed.
    """

    def __init__(self, settings: Training, document: ConfigDocument, ranks: Ranks, quiet: bool) -> None:
        self.settings, self.document, self.ranks, self.quiet = settings, document, ranks, quiet
        self.out = storage.local_path(settings.out)
        mixtures = self._mixtures()
        contract = self._contract(mixtures)
        self.model = build(
            settings.language_model, settings.vision_encoders, settings.connector, frames=contract.clip_frames,
            tokens=contract.clip_tokens, seed=settings.seed, encode_batch=settings.encode_batch,
        )  # fmt: skip
        self.given: set[str] = set()  # parts that do not begin as their folders have them
        if settings.weights is not None:
            if not Path(settings.weights).is_file():
                raise ConfigError("there is no such file", where=document.where(("weights",)), hint=settings.weights)
            given, _ = checkpoint.load(Path(settings.weights))
            checkpoint.restore(self.model, None, given, settings.weights)
            self.given = {name.partition(".")[0] for name in given}
        self.model.modules.to(ranks.device)
        if settings.activation_checkpoints:
            for module in (self.model.modules["language"], *self.model.modules["vision"]):
                if module.supports_gradient_checkpointing:
                    module.activation_checkpointing_enable()
        self.collate = Collate.of(self.model, settings.language_model, settings.vision_encoders, contract)
        self.stages = [self._plan(name, mixture, contract) for name, mixture in mixtures.items()]
        self.identity = {
            "config": identity(settings),
            "mixtures": {stage.name: stage.loader.mixture.manifest["members"]["sha256"] for stage in self.stages},
            "models": [_identity(path) for path in (settings.language_model, *settings.vision_encoders)],
            "weights": None if settings.weights is None else file_sha256(settings.weights),
        }
        self.consumed, self.told = 0, ""

    # -- planning -----------------------------------------------------------------------------------------------

    def _mixtures(self) -> dict[str, Mixture]:
        """The mixture of each stage that runs, in order."""
        chosen = {name: getattr(self.settings.stages, name) for name in STAGES}
        found = {}
        for name, stage in chosen.items():
            if stage is None:
                continue
            uri = stage.mixture or self.settings.mixture
            if uri is None:
                raise ConfigError(
                    f"stages.{name} has no mixture",
                    where=self.document.where(("stages", name)),
                    hint="give `mixture:` for all stages, or one under each",
                )
            found[name] = open_mixture(uri)
        if not found:
            raise ConfigError("no stage is left to run", where=self.document.where(("stages",)))
        return found

    def _contract(self, mixtures: Mapping[str, Mixture]) -> Contract:
        """What all stages make of a clip; the connector is one for all of them."""
        given = self.settings.tokens_per_frame
        made = {
            (c.clip_seconds, c.clip_frames, given or c.tokens_per_frame)
            for c in (mixture.contract for mixture in mixtures.values())
        }
        if len(made) > 1:
            raise ConfigError(
                f"the stages' mixtures were made for other clips: (seconds, frames, tokens a frame) are {sorted(made)}",
                where=self.document.where(("stages",)),
                hint="make them with one contract; `tokens_per_frame:` here settles the last of the three",
            )
        first = next(iter(mixtures.values())).contract
        return dataclasses.replace(first, tokens_per_frame=given or first.tokens_per_frame)

    def _plan(self, name: str, mixture: Mixture, contract: Contract) -> PlannedStage:
        settings, world = self.settings, self.ranks.world
        stage = stages.resolved(name, getattr(settings.stages, name), self._size("language"))
        together = world * settings.micro_batch
        if stage.batch % together:
            raise ConfigError(
                f"stages.{name}.batch is {stage.batch}, which {world} processes with micro_batch "
                f"{settings.micro_batch} cannot share evenly",
                where=self.document.where(("stages", name, "batch")),
                hint=f"make it a multiple of {together}, or lower micro_batch",
            )
        loader = Loader(
            mixture, rank=self.ranks.rank, world=world, batch=settings.micro_batch, decode=True,
            contract=dataclasses.replace(contract, max_clips=stage.max_clips),
            frame_size=max(encoder.side for encoder in self.model.encoders), on_error=settings.on_error,
        )  # fmt: skip
        if not any(stage.peak.values()):
            raise ConfigError(
                f"stages.{name} trains nothing: every rate is 0", where=self.document.where(("stages", name))
            )
        each = -(-loader.order.total // stage.batch)
        return PlannedStage(name, stage, loader, each, stage.batch // together)

    # -- running ------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train, and tell what came of it; {} on every rank but the first."""
        at, first, tensors, state = self._resume()
        for index in range(at, len(self.stages)):
            self._stage(index, first, tensors, state)
            first, tensors, state = 0, {}, {}
        return self._result() if self.ranks.rank == 0 else {}

    def _resume(self) -> tuple[int, int, dict[str, Any], dict[str, Any]]:
        """(stage, step, the optimizer's tensors, the loader's state) to go on from; weights are put in place."""
        place = self.out / CHECKPOINT
        if self.ranks.rank == 0:
            self._claim(fingerprint(self.identity))
        if not place.is_file():
            return 0, 0, {}, {}
        tensors, state = checkpoint.load(place)
        held = {name: tensor for name, tensor in tensors.items() if name.startswith(checkpoint.OPTIMIZER)}
        checkpoint.restore(self.model, None, {n: t for n, t in tensors.items() if n not in held}, str(place))
        at, first = state["stage"], state["step"]
        if first == self.stages[at].steps:
            at, first = at + 1, 0
        return at, first, held, state["loader"]

    def _claim(self, mark: str) -> None:
        """See that the folder is this training's; clear away what a kill left half written, and log lines that the
        checkpoint does not know."""
        place = self.out / "train.json"
        if place.is_file() and read_json(str(place)).get("fingerprint") != mark:
            raise ConfigError(
                f"{self.out} holds a training of another config, mixture or models",
                where=self.document.where(("out",)),
                hint="give --out NEW, or undo the change; only " + ", ".join(sorted(FREE)) + " may change on the way",
            )
        libraries = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        value = {**self.identity, "training": VERSION, "fingerprint": mark, "libraries": libraries}
        storage.write_bytes(str(place), canonical_json(value))
        for torn in self.out.glob(".*.safetensors.*.tmp"):
            storage.remove(str(torn))
        lines = 0
        if (self.out / CHECKPOINT).is_file():
            _, state = checkpoint.load(self.out / CHECKPOINT, state_only=True)
            lines = sum(stage.steps for stage in self.stages[: state["stage"]]) + state["step"]
        for name in (LOG, KEYS):
            found = (self.out / name).read_bytes().splitlines(keepends=True) if (self.out / name).is_file() else []
            storage.write_bytes(str(self.out / name), b"".join(found[:lines]))

    def _stage(self, index: int, first: int, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        stage = self.stages[index]
        optimizer = stages.begin(self.model, stage.peak, self.settings.optimizer)
        if self.settings.activation_checkpoints:  # transformers heeds them in training mode alone
            self.model.modules["language"].train()
        checkpoint.restore(self.model, optimizer, tensors, str(self.out / CHECKPOINT))
        if state:
            stage.loader.load_state_dict(state)
        self.consumed, self.told = stage.taken(first), ""
        reads: Iterator[Any] | None = None
        watched = watch(
            stage.name, stage.samples, lambda: self.consumed, what="samples", quiet=self.quiet, note=lambda: self.told
        )
        with watched, contextlib.closing(stage.loader):
            for step in range(first, stage.steps):
                if reads is None:
                    reads = stage.loader.batches(workers=self.settings.workers, collate=self.collate)
                told, keys = self._step(stage, step, optimizer, itertools.islice(reads, stage.reads))
                if (step + 1) % stage.steps_an_epoch == 0:
                    reads = next(reads, None)  # there is no more, and the loader turns to the next epoch
                self._write(stage, step, told, keys)
                if (step + 1) % self.settings.checkpoint_every == 0 and step + 1 < stage.steps:
                    self._save(index, step + 1, checkpoint.optimizer_tensors(self.model, optimizer))
        self._save(index, stage.steps, {})

    def _step(
        self, stage: PlannedStage, step: int, optimizer: Any, reads: Iterator[Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """One step of the optimizer; returns what the log tells of it, and the keys of all ranks' samples."""
        torch = models.import_torch()
        half = torch.autocast(
            self.ranks.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bfloat16"
        )
        keys: list[str] = []
        total, tokens = 0.0, 0
        for i, read in enumerate(reads):
            if not read["keys"]:
                continue
            # Dropout is drawn from the seed for each pass, so a training that goes on draws the same.
            name = f"{stage.name}/{step}/{self.ranks.rank}/{i}"
            torch.manual_seed(int(draw_integers(self.settings.seed, [name], "train")[0] >> 1))
            keys += read["keys"]
            with half:
                loss, count = self.model.loss(to_device(read, self.ranks.device))
            if loss.requires_grad:  # text alone reaches no part that trains, where the language model is frozen
                loss.backward()  # type: ignore[no-untyped-call]
            total, tokens = total + float(loss.detach()), tokens + count
        scale = stages.factor(step, stage.steps, self.settings.optimizer.warm_up)
        told = stages.step(optimizer, stage.peak, scale, (total, tokens), self.settings.optimizer.clip_norm)
        told["lr"] = {part: rate * scale for part, rate in stage.peak.items() if rate}
        return told, self.ranks.gathered(keys)

    def _write(self, stage: PlannedStage, step: int, told: dict[str, Any], keys: list[str]) -> None:
        self.consumed = stage.taken(step + 1)
        self.told = f"step {step + 1:,} of {stage.steps:,}, loss {told['loss']:.3f}"
        if self.ranks.rank:
            return
        place = {"stage": stage.name, "step": step}
        for name, line in ((LOG, {**place, **told, "samples": len(keys)}), (KEYS, {**place, "keys": keys})):
            with open(self.out / name, "ab") as file:
                file.write(canonical_json(line))

    def _save(self, index: int, step: int, tensors: dict[str, Any]) -> None:
        if self.ranks.rank:
            return
        stage = self.stages[index]
        trained = {part for part in PARTS if any(done.peak[part] for done in self.stages[: index + 1])}
        parts = tuple(part for part in PARTS if part in trained | self.given)
        held = checkpoint.weights(self.model, parts)
        if step == stage.steps:
            checkpoint.save(self.out / f"{stage.name}.safetensors", held, {"stage": stage.name, "parts": parts})
        state = {"stage": index, "step": step, "loader": stage.loader.state_dict()}
        checkpoint.save(self.out / CHECKPOINT, {**held, **tensors}, state)
        if step == stage.steps:
            curve.draw(self.out / LOG, self.out / PICTURE)

    def _result(self) -> dict[str, Any]:
        log = curve.read(self.out / LOG)
        return {
            "out": str(self.out),
            "warnings": list(dict.fromkeys(said for stage in self.stages for said in self._warnings(stage, log))),
            "stages": [
                {
                    "stage": stage.name,
                    "trains": {part: rate for part, rate in stage.peak.items() if rate},
                    "parameters": {p: self._size(p) for p, rate in stage.peak.items() if rate},
                    "mixture": stage.loader.mixture.uri,
                    **curve.summed([line for line in log if line["stage"] == stage.name]),
                }
                for stage in self.stages
            ],
        }

    def _warnings(self, stage: PlannedStage, log: list[dict[str, Any]]) -> list[str]:
        """What of a stage's mixture does not go with what the stage does, or could not be shown."""
        mixture, found = stage.loader.mixture, []
        shares = mixture.manifest["achieved"]["samples"]
        if not stage.peak["language"] and shares.get("text"):
            found.append(
                f"{stage.name}: text ({shares['text']:.0%}) teaches nothing while the language model is frozen"
            )
        if stage.name == "vision" and shares.get("video", 0) < 1:
            found.append(
                f"vision: {shares.get('video', 0):.0%} of the mixture is video; Apollo trains this on video alone"
            )
        planned, used = mixture.contract.tokens_per_frame, stage.loader.contract.tokens_per_frame
        if planned != used:
            found.append(f"{used} tokens a frame here; the shares of {mixture.uri} were planned with {planned}")
        seen = sum(line["samples"] for line in log if line["stage"] == stage.name)
        if seen < stage.samples:
            found.append(f"{stage.name}: {stage.samples - seen:,} samples were skipped, their media could not be shown")
        return found

    def _size(self, part: str) -> int:
        return sum(parameter.numel() for _, parameter in self.model.parameters(part))


def _identity(path: str) -> list[list[Any]]:
    """What tells a model's folder from another's: its config by content, its weights by name and size."""
    found = [entry for entry in storage.list_files(path) if entry.path.endswith((".safetensors", ".bin"))]
    return [["config.json", file_sha256(Path(path) / "config.json")], *([entry.path, entry.size] for entry in found)]


def show(value: Mapping[str, Any]) -> None:
    """The stages in a table with their curves, for people."""
    curve.show(value, Path(value["out"]) / LOG, Path(value["out"]) / PICTURE)
