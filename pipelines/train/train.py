"""train: run Apollo's align, vision and sft stages, to prove that mixtures train.

One process, or as many as torchrun starts; all of them together take the same samples in the same steps. A training
that was killed resumes at the next sample when the same command is given again.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra import storage
from infra.commit import lock, read_json
from infra.config import ConfigDocument, read_document, validate
from infra.errors import ConfigError
from infra.hashing import canonical_json, draw_integers, file_sha256, fingerprint
from infra.progress import watch
from infra.weights import models
from pipelines.train import checkpoint, curve, stages
from pipelines.train.model import COMPONENTS, Collate, build, to_device, transformers
from pipelines.train.settings import FREE, Training, identity
from pipelines.train.stage_plans import PlannedStage, open_mixtures, plan_stage, shared_contract
from pipelines.train.stages import Ranks, join_ranks

#: Raised when the meaning of a training's folder changes.
VERSION = 1

CHECKPOINT, LOG, KEYS, PICTURE = "checkpoint.safetensors", "log.jsonl", "keys.jsonl", "loss.png"


def run(path: str, *, out: str | None = None, quiet: bool = False) -> dict[str, Any]:
    """Train as the config says, or resume the training in the same folder; return what `--json` prints.

    Raises ConfigError for mistakes in the config, StageError where data or loss are invalid, MissingExtra.
    """
    document = read_document(path)
    if out is not None:
        document = ConfigDocument(document.path, {**document.content, "out": out}, document.lines)
    settings = validate(document, Training, document.content)
    if not storage.is_local(settings.out):
        raise ConfigError("a training's folder has to be on a file system", where=document.where(("out",)))
    transformers()
    with join_ranks(settings.device) as ranks, lock(settings.out) if ranks.rank == 0 else contextlib.nullcontext():
        return Trainer(settings, document, ranks, quiet or ranks.rank > 0).run()


class Trainer:
    """One training from its beginning or its checkpoint to its end. Only rank 0 writes and prints.

    OUT/train.json: config, mixtures and models. OUT/log.jsonl, keys.jsonl: one line per step, the same bytes whether or
    not the training was interrupted. OUT/checkpoint.safetensors: the state to resume from. OUT/STAGE.safetensors: all
    weights trained up to the end of a stage. OUT/loss.png: the curve, where matplotlib is installed.
    """

    def __init__(self, settings: Training, document: ConfigDocument, ranks: Ranks, quiet: bool) -> None:
        self.settings, self.document, self.ranks, self.quiet = settings, document, ranks, quiet
        self.out = storage.local_path(settings.out)
        mixtures = open_mixtures(settings, document)
        contract = shared_contract(settings, document, mixtures)
        self.model = build(
            settings.language_model, settings.vision_encoders, settings.connector, frames=contract.clip_frames,
            tokens=contract.clip_tokens, seed=settings.seed, encode_batch=settings.encode_batch,
        )  # fmt: skip
        self.initialised = self._load_initial_weights()
        self.model.modules.to(ranks.device)
        if settings.activation_checkpoints:
            for module in (self.model.modules["language"], *self.model.modules["vision"]):
                if module.supports_gradient_checkpointing:
                    module.activation_checkpointing_enable()
        self.collate = Collate.of(self.model, settings.language_model, settings.vision_encoders, contract)
        self.stages = [
            plan_stage(name, mixture, contract, settings=settings, document=document, ranks=ranks, model=self.model)
            for name, mixture in mixtures.items()
        ]
        self.identity = {
            "config": identity(settings),
            "mixtures": {stage.name: stage.loader.mixture.manifest["members"]["sha256"] for stage in self.stages},
            "models": [_identify_model(path) for path in (settings.language_model, *settings.vision_encoders)],
            "weights": None if settings.weights is None else file_sha256(settings.weights),
        }
        self.consumed, self.status = 0, ""

    def _load_initial_weights(self) -> set[str]:
        """Load `weights:`; the parts that it has, which do not begin as their folders have them."""
        path = self.settings.weights
        if path is None:
            return set()
        if not Path(path).is_file():
            raise ConfigError("there is no such file", where=self.document.where(("weights",)), hint=path)
        tensors, _ = checkpoint.load(Path(path))
        checkpoint.restore(self.model, None, tensors, path)
        return {name.partition(".")[0] for name in tensors}

    # -- resuming -----------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train, and return the summary; {} on every rank but the first."""
        index, step, tensors, loader_state = self._resume()
        for i in range(index, len(self.stages)):
            self._run_stage(i, step, tensors, loader_state)
            step, tensors, loader_state = 0, {}, {}
        return self._summarise() if self.ranks.rank == 0 else {}

    def _resume(self) -> tuple[int, int, dict[str, Any], dict[str, Any]]:
        """(stage, step, the optimizer's tensors, the loader's state) to resume from; weights are restored."""
        path = self.out / CHECKPOINT
        if self.ranks.rank == 0:
            self._claim(fingerprint(self.identity))
        if not path.is_file():
            return 0, 0, {}, {}
        tensors, state = checkpoint.load(path)
        optimizer = {name: tensor for name, tensor in tensors.items() if name.startswith(checkpoint.OPTIMIZER)}
        checkpoint.restore(self.model, None, {n: t for n, t in tensors.items() if n not in optimizer}, str(path))
        index, step = state["stage"], state["step"]
        if step == self.stages[index].steps:
            index, step = index + 1, 0
        return index, step, optimizer, state["loader"]

    def _claim(self, mark: str) -> None:
        """Check that the folder is this training's; remove temporary files of a killed process, and log lines after the
        checkpoint."""
        path = self.out / "train.json"
        if path.is_file() and read_json(str(path)).get("fingerprint") != mark:
            raise ConfigError(
                f"{self.out} contains a training run with another config, mixture or models",
                where=self.document.where(("out",)),
                hint=f"give --out NEW, or undo the change; only {', '.join(sorted(FREE))} may change before it ends",
            )
        libraries = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        summary = {**self.identity, "training": VERSION, "fingerprint": mark, "libraries": libraries}
        storage.write_bytes(str(path), canonical_json(summary))
        for temporary in self.out.glob(".*.safetensors.*.tmp"):
            storage.remove(str(temporary))
        count = 0
        if (self.out / CHECKPOINT).is_file():
            _, state = checkpoint.load(self.out / CHECKPOINT, state_only=True)
            count = sum(stage.steps for stage in self.stages[: state["stage"]]) + state["step"]
        for name in (LOG, KEYS):
            lines = (self.out / name).read_bytes().splitlines(keepends=True) if (self.out / name).is_file() else []
            storage.write_bytes(str(self.out / name), b"".join(lines[:count]))

    # -- training -----------------------------------------------------------------------------------------------

    def _run_stage(self, index: int, first: int, tensors: dict[str, Any], loader_state: dict[str, Any]) -> None:
        stage = self.stages[index]
        optimizer = stages.begin(self.model, stage.peak, self.settings.optimizer)
        if self.settings.activation_checkpoints:  # transformers uses them in training mode only
            self.model.modules["language"].train()
        checkpoint.restore(self.model, optimizer, tensors, str(self.out / CHECKPOINT))
        if loader_state:
            stage.loader.load_state_dict(loader_state)
        self.consumed, self.status = stage.count_samples(first), ""
        batches: Iterator[Any] | None = None
        progress = watch(
            stage.name, stage.samples, lambda: self.consumed, what="samples", quiet=self.quiet, note=lambda: self.status
        )
        with progress, contextlib.closing(stage.loader):
            for step in range(first, stage.steps):
                if batches is None:
                    batches = stage.loader.batches(workers=self.settings.workers, collate=self.collate)
                metrics, keys = self._step(stage, step, optimizer, itertools.islice(batches, stage.reads))
                if (step + 1) % stage.steps_per_epoch == 0:
                    batches = next(batches, None)  # exhausted: the loader turns to the next epoch
                self._write(stage, step, metrics, keys)
                if (step + 1) % self.settings.checkpoint_every == 0 and step + 1 < stage.steps:
                    self._save(index, step + 1, checkpoint.optimizer_tensors(self.model, optimizer))
        self._save(index, stage.steps, {})

    def _step(
        self, stage: PlannedStage, step: int, optimizer: Any, batches: Iterator[Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """One step of the optimizer; return its metrics, and the keys of all ranks' samples."""
        torch = models.import_torch()
        autocast = torch.autocast(
            self.ranks.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bfloat16"
        )
        keys: list[str] = []
        total, tokens = 0.0, 0
        for i, batch in enumerate(batches):
            if not batch["keys"]:
                continue
            # The seed of dropout depends on the step only, so a training that resumes draws the same.
            name = f"{stage.name}/{step}/{self.ranks.rank}/{i}"
            # Threads: a training process draws in one.
            torch.manual_seed(int(draw_integers(self.settings.seed, [name], "train")[0] >> 1))
            keys += batch["keys"]
            with autocast:
                loss, count = self.model.loss(to_device(batch, self.ranks.device))
            if loss.requires_grad:  # text alone reaches no trained part where the language model is frozen
                loss.backward()  # type: ignore[no-untyped-call]
            total, tokens = total + float(loss.detach()), tokens + count
        scale = stages.rate_factor(step, stage.steps, self.settings.optimizer.warm_up)
        metrics = stages.step(optimizer, stage.peak, scale, (total, tokens), self.settings.optimizer.clip_norm)
        metrics["lr"] = {component: rate * scale for component, rate in stage.peak.items() if rate}
        return metrics, self.ranks.gather(keys)

    # -- writing ------------------------------------------------------------------------------------------------

    def _write(self, stage: PlannedStage, step: int, metrics: dict[str, Any], keys: list[str]) -> None:
        self.consumed = stage.count_samples(step + 1)
        self.status = f"step {step + 1:,} of {stage.steps:,}, loss {metrics['loss']:.3f}"
        if self.ranks.rank:
            return
        head = {"stage": stage.name, "step": step}
        for name, line in ((LOG, {**head, **metrics, "samples": len(keys)}), (KEYS, {**head, "keys": keys})):
            with open(self.out / name, "ab") as file:
                file.write(canonical_json(line))

    def _save(self, index: int, step: int, optimizer: dict[str, Any]) -> None:
        if self.ranks.rank:
            return
        stage = self.stages[index]
        trained = {name for name in COMPONENTS if any(done.peak[name] for done in self.stages[: index + 1])}
        components = tuple(name for name in COMPONENTS if name in trained | self.initialised)
        weights = checkpoint.weights(self.model, components)
        if step == stage.steps:
            checkpoint.save(self.out / f"{stage.name}.safetensors", weights, {"stage": stage.name, "parts": components})
        state = {"stage": index, "step": step, "loader": stage.loader.state_dict()}
        checkpoint.save(self.out / CHECKPOINT, {**weights, **optimizer}, state)
        if step == stage.steps:
            curve.draw(self.out / LOG, self.out / PICTURE)

    def _summarise(self) -> dict[str, Any]:
        log = curve.read(self.out / LOG)
        return {
            "out": str(self.out),
            "warnings": list(dict.fromkeys(warning for stage in self.stages for warning in stage.warnings(log))),
            "stages": [
                {
                    "stage": stage.name,
                    "trains": {component: rate for component, rate in stage.peak.items() if rate},
                    "parameters": {p: self.model.count_weights(p) for p, rate in stage.peak.items() if rate},
                    "mixture": stage.loader.mixture.uri,
                    **curve.summarise([line for line in log if line["stage"] == stage.name]),
                }
                for stage in self.stages
            ],
        }


def _identify_model(path: str) -> list[list[Any]]:
    """Identity of a model's folder: its config by content, its weights by name and size."""
    weights = [entry for entry in storage.list_files(path) if entry.path.endswith((".safetensors", ".bin"))]
    return [["config.json", file_sha256(Path(path) / "config.json")], *([entry.path, entry.size] for entry in weights)]


def show(summary: Mapping[str, Any]) -> None:
    """Print the stages in a table with their curves."""
    curve.show(summary, Path(summary["out"]) / LOG, Path(summary["out"]) / PICTURE)
