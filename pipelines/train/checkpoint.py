"""Checkpoints that a killed training resumes from: one safetensors file that is replaced atomically.

It contains the weights trained so far and the optimizer's state; the position (stage, step, the loader's state) is JSON
in the same file's header, so the three always belong together. Each step seeds its own generator, so no generator's
state is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra import storage
from infra.errors import StageError
from infra.hashing import canonical_json, file_sha256
from infra.weights import models
from pipelines.train.model import COMPONENTS, VideoLanguageModel

#: Raised when the content of a checkpoint changes.
VERSION = 1

#: Prefix of the names of the optimizer's tensors; all others are weights.
OPTIMIZER = "optimizer/"

_STATE = "reelmill.training"


def weights(model: VideoLanguageModel, components: tuple[str, ...] = COMPONENTS) -> dict[str, Any]:
    """Weights of some components by name; shared ones once."""
    return {name: parameter.detach() for component in components for name, parameter in model.parameters(component)}


def save(path: Path, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON value as one file: under a temporary name, read back, then renamed."""
    from safetensors.torch import save_file

    text = canonical_json({**state, "version": VERSION}).decode()
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with storage.publish_when_written(str(path)) as file:
        save_file(contiguous, file.path, metadata={_STATE: text})
        file.path.chmod(0o644)  # safetensors makes files that only their owner reads
        file.sha256 = file_sha256(file.path)


def load(path: Path, *, state_only: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, state) of a checkpoint; no tensors with `state_only`.

    Raises StageError when the file is damaged or of another version.
    """
    from safetensors import SafetensorError, safe_open

    models.import_torch("training")
    hint = "move it away to start again"
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {}).get(_STATE, "{}"))
            if state.pop("version", None) != VERSION:
                raise StageError(f"this is no checkpoint of version {VERSION}", where=str(path), hint=hint)
            return ({} if state_only else {name: file.get_tensor(name) for name in file.keys()}), state  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise StageError(f"this checkpoint is damaged: {error}", where=str(path), hint=hint) from None


def optimizer_tensors(model: VideoLanguageModel, optimizer: Any) -> dict[str, Any]:
    """The optimizer's state as "OPTIMIZER KEY/NAME OF THE PARAMETER"."""
    names = {id(parameter): name for component in COMPONENTS for name, parameter in model.parameters(component)}
    return {
        f"{OPTIMIZER}{key}/{names[id(parameter)]}": tensor
        for parameter, state in optimizer.state.items()
        for key, tensor in state.items()
    }


def restore(model: VideoLanguageModel, optimizer: Any | None, tensors: Mapping[str, Any], where: str) -> None:
    """Restore weights, and the optimizer's state where there is an optimizer.

    Raises StageError when a name or shape is not this model's.
    """
    torch = models.import_torch()
    parameters = {name: parameter for component in COMPONENTS for name, parameter in model.parameters(component)}
    for full, tensor in tensors.items():
        is_state = full.startswith(OPTIMIZER)
        _, key, name = full.split("/", 2) if is_state else ("", "", full)
        parameter = parameters.get(name)
        if parameter is None or (tensor.dim() and tensor.shape != parameter.shape):
            raise StageError(
                f"{name} is not in this model, or of another shape",
                where=where,
                hint="the models in the config are not those that this training started with",
            )
        if not is_state:
            with torch.no_grad():
                parameter.copy_(tensor)
        elif optimizer is not None:
            # AdamW counts its steps on the CPU, wherever the parameter is.
            optimizer.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)
