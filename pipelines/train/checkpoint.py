"""What a killed training goes on from: one safetensors file that appears whole or not at all.

It holds the weights trained so far and the optimizer's state; where the training stands (stage, step, the loader's
state) is JSON in the same file's header, so the three cannot come apart. Chance is drawn anew for each step from the
seed, so no generator's state is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra import models, storage
from infra.errors import StageError
from infra.hashing import canonical_json, file_sha256
from pipelines.train.model import PARTS, VideoLanguageModel

#: Raised when what a checkpoint holds changes.
VERSION = 1

#: What names of the optimizer's tensors begin with; all others are weights.
OPTIMIZER = "optimizer/"

_STATE = "reelmill.training"


def weights(model: VideoLanguageModel, parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """Weights of some parts by name, as they are; shared ones once."""
    return {name: parameter.detach() for part in parts for name, parameter in model.parameters(part)}


def save(path: Path, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON value as one file: under a temporary name, read back, then renamed."""
    from safetensors.torch import save_file

    text = canonical_json({**state, "version": VERSION}).decode()
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with storage.publish_when_written(str(path)) as file:
        save_file(held, file.path, metadata={_STATE: text})
        file.path.chmod(0o644)  # safetensors makes files that only their owner reads
        file.sha256 = file_sha256(file.path)


def load(path: Path, *, state_only: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, state) of a checkpoint; no tensors with `state_only`.

    Raises StageError when the file is damaged or of another version.
    """
    from safetensors import SafetensorError, safe_open

    models.import_torch("training")
    hint = "move it away to begin anew"
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
    names = {id(parameter): name for part in PARTS for name, parameter in model.parameters(part)}
    return {
        f"{OPTIMIZER}{key}/{names[id(parameter)]}": value
        for parameter, held in optimizer.state.items()
        for key, value in held.items()
    }


def restore(model: VideoLanguageModel, optimizer: Any | None, tensors: Mapping[str, Any], where: str) -> None:
    """Put weights, and the optimizer's state where there is one, back in place.

    Raises StageError when a name or shape is not this model's.
    """
    torch = models.import_torch()
    known = {name: parameter for part in PARTS for name, parameter in model.parameters(part)}
    for full, value in tensors.items():
        is_state = full.startswith(OPTIMIZER)
        _, key, name = full.split("/", 2) if is_state else ("", "", full)
        parameter = known.get(name)
        if parameter is None or (value.dim() and value.shape != parameter.shape):
            raise StageError(
                f"{name} is not in this model, or of another shape",
                where=where,
                hint="the models that the config names are not those that this training began with",
            )
        if not is_state:
            with torch.no_grad():
                parameter.copy_(value)
        elif optimizer is not None:
            # AdamW counts its steps on the CPU, wherever the parameter lies.
            optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
