"""Load models: one intra-op thread, pinned weights, one instance per process.

Threads: safe. One lock is held while a model is loaded or looked up; the threads of a process share the loaded models,
whose forward passes change nothing. Settings of libraries are the same numbers wherever they are set.

Nothing is downloaded unless the config names it: an open_clip tag, an `hf-hub:` model, or a TorchScript file
by URL. A TorchScript file contains code, so it is loaded only when its sha256 is the pinned one, and from the same
bytes that were hashed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra import storage
from infra.errors import ConfigError, MissingExtra, StageError
from infra.hashing import file_sha256
from infra.weights import model_files

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]

#: open_clip's names for weights that are all of one type.
_PRECISION = {"float32": "fp32", "bfloat16": "pure_bf16", "float16": "pure_fp16"}
#: Names under which open_clip looks for weights in a folder, best first.
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
_CONFIG = "open_clip_config.json"
_CACHE = "~/.cache/reelmill/models"
_loading = threading.RLock()
_Loader = TypeVar("_Loader", bound=Callable[..., Any])


def _once(load: _Loader) -> _Loader:
    """Cache by arguments; concurrent threads wait for the one that loads."""
    cached = lru_cache(maxsize=8)(load)

    def locked(*arguments: Any) -> Any:
        with _loading:
            return cached(*arguments)

    return locked  # type: ignore[return-value]


def find_torch(purpose: str) -> None:
    """Raise MissingExtra where torch is not installed, without importing it."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch", "models", purpose)


def import_torch(purpose: str = "this model") -> Any:
    """The torch module, set to one intra-op thread: with more, results change with the shape of the batch.

    Raises MissingExtra.
    """
    find_torch(purpose)
    import torch as module

    # Torch applies the number of the process to each of its threads.
    if module.get_num_threads() != 1:
        module.set_num_threads(1)
    return module


def import_torchvision(purpose: str = "this model") -> Any:
    """The torchvision module.

    Its wheel from the package index is built for CUDA and cannot be imported beside a CPU build of torch, because the
    schemas of two operators are then unknown. Only in that case they are declared here; transforms and models then
    work, the operators themselves do not. Raises MissingExtra.
    """
    library = import_torch(purpose).library
    if importlib.util.find_spec("torchvision") is None:
        raise MissingExtra("torchvision", "models", purpose)
    with _loading:
        return _import_torchvision(library)


def _import_torchvision(library: Any) -> Any:
    try:
        import torchvision as module
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            try:
                library.define(f"torchvision::{operator}", schema)
            except RuntimeError:  # the interrupted import has already declared this one
                continue
        import torchvision as module
    return module


def import_open_clip(purpose: str = "alignment") -> Any:
    """The open_clip module. Raises MissingExtra."""
    import_torchvision(purpose)
    if importlib.util.find_spec("open_clip") is None:
        raise MissingExtra("open_clip_torch", "models", purpose)
    import open_clip as module

    return module


def check_device(device: Device) -> Any:
    """The torch device; on CUDA, arithmetic is made repeatable. Raises ConfigError when it is not available."""
    module = import_torch()
    if device == "cuda":
        if not module.cuda.is_available():
            raise ConfigError("the config says device cuda, but torch finds no CUDA device", hint="set device: cpu")
        module.backends.cudnn.benchmark = False
        module.backends.cudnn.deterministic = True
        module.backends.cuda.matmul.allow_tf32 = False
        module.backends.cudnn.allow_tf32 = False
    return module.device(device)


# --- files ------------------------------------------------------------------------------------------------------------


def check_sha256(sha256: str) -> str:
    """`sha256` in lower case. Raises ValueError unless it is 64 hex digits."""
    lower = sha256.lower()
    if len(lower) != 64 or set(lower) - set("0123456789abcdef"):
        raise ValueError(f"a sha256 is 64 hex digits, not {sha256!r}")
    return lower


def fetch(location: str, sha256: str, cache: str | None = None) -> bytes:
    """Read or download a pinned file.

    location: a local path, or an http(s) URL, which is downloaded once into the folder `cache` (by default
    ~/.cache/reelmill/models) under its sha256 and read from there afterwards.
    Raises ConfigError when the bytes are not the pinned ones or the path is missing, StageError when the download
    fails.
    """
    sha256 = check_sha256(sha256)
    cached = Path(cache or _CACHE).expanduser() / sha256
    if not location.startswith(("http://", "https://")):
        content = _read(location)
    elif cached.is_file() and hashlib.sha256(content := cached.read_bytes()).hexdigest() == sha256:
        return content
    else:
        content = _download(location)
        if hashlib.sha256(content).hexdigest() == sha256:
            storage.write_bytes(str(cached), content)
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise ConfigError(
            f"this is not the pinned file: its sha256 is {actual}, the config says {sha256}",
            where=location,
            hint="pin the sha256 that a trusted source publishes for this file",
        )
    return content


def _read(location: str) -> bytes:
    try:
        return Path(location).expanduser().read_bytes()
    except OSError as error:
        hint = "docs/models.md lists sources of weights"
        raise ConfigError(f"cannot read the weights: {error.strerror}", where=location, hint=hint) from None


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            body: bytes = answer.read()
            return body
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise StageError(
            f"cannot download {url}: {error}",
            hint="download the file elsewhere and give its path; its sha256 stays the same",
        ) from None


# --- TorchScript ------------------------------------------------------------------------------------------------------


@_once
def check_script(location: str, sha256: str, cache: str | None, methods: Sequence[str]) -> None:
    """Raise ConfigError unless a pinned file is there and is a TorchScript module with these methods; a URL is
    downloaded. Nothing of it is loaded. Also raises StageError (see `fetch`), and MissingExtra without torch."""
    find_torch("a TorchScript model")
    model_files.check_script(fetch(location, sha256, cache), location, methods)


@_once
def load_script(location: str, sha256: str, device: Device = "cpu", cache: str | None = None) -> Any:
    """A TorchScript module in evaluation mode from a path or URL, after its sha256 has been checked.

    Raises ConfigError, StageError (see `fetch`) and MissingExtra.
    """
    library = import_torch("a TorchScript model")
    content = fetch(location, sha256, cache)
    try:
        module = library.jit.load(io.BytesIO(content), map_location=check_device(device))
    except RuntimeError as error:
        raise ConfigError(f"torch cannot load this module: {_first_line(error)}", where=location) from None
    return module.eval()


# --- open_clip --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipSource:
    """Configuration of a CLIP.

    model: "local-dir:PATH" (a folder with open_clip_config.json and open_clip_model.safetensors), "hf-hub:ORG/NAME",
        or an architecture that open_clip knows ("ViT-B-32").
    pretrained: for an architecture: a weights file or an open_clip tag ("laion2b_s34b_b79k").
    sha256: of the weights; None accepts any.
    cache: download folder of tags and hub models; None is the libraries' own folder.
    """

    model: str
    pretrained: str | None = None
    sha256: str | None = None
    cache: str | None = None


@dataclass(frozen=True)
class ClipFiles:
    """model: `ClipSource.model` with a hub name replaced by its folder; config: open_clip's JSON for it;
    weights: the file; sha256: of that file."""

    model: str
    config: dict[str, Any]
    weights: Path
    sha256: str


def clip_input_size(source: ClipSource) -> int:
    """Pixels of a picture's short side after resizing. Reads JSON only; imports no torch for local models and
    architectures."""
    config = _clip_config(source)
    size = config["vision_cfg"].get("image_size", 224)
    return max(size) if isinstance(size, list) else int(size)


def _clip_config(source: ClipSource) -> dict[str, Any]:
    """embed_dim, vision_cfg, text_cfg, and the preprocess_cfg of a folder."""
    folder = _clip_folder(source)
    if folder is None:
        spec = importlib.util.find_spec("open_clip")
        if spec is None or spec.origin is None:
            raise MissingExtra("open_clip_torch", "models", "alignment")
        path = Path(spec.origin).parent / "model_configs" / f"{source.model.replace('/', '-')}.json"
        if not path.is_file():
            raise ConfigError(
                f"open_clip has no architecture {source.model!r}",
                hint='give a local model as "local-dir:PATH"',
            )
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return config
    path = folder / _CONFIG
    try:
        file = json.loads(path.read_text(encoding="utf-8"))
        preprocess = {name: file[name] for name in ("preprocess_cfg",) if name in file}
        return {**file["model_cfg"], "vision_cfg": file["model_cfg"]["vision_cfg"], **preprocess}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not an open_clip config: {error!r}") from None


def _clip_folder(source: ClipSource) -> Path | None:
    """The folder of a local or (downloaded) hub model; None for an architecture."""
    kind, _, rest = source.model.partition(":")
    if kind == "local-dir":
        folder = Path(rest).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"model folder not found: {folder}", hint="check the path after local-dir:")
        return folder
    if kind == "hf-hub":
        return _hub_folder(rest, source.cache)
    if rest:
        raise ConfigError(
            f"unknown kind of model {source.model!r}", hint='"local-dir:PATH", "hf-hub:ORG/NAME" or a name'
        )
    return None


@_once
def _hub_folder(name: str, cache: str | None) -> Path:
    hub = import_open_clip().pretrained
    try:
        config = hub.download_pretrained_from_hf(name, filename=_CONFIG, cache_dir=cache)
        hub.download_pretrained_from_hf(name, cache_dir=cache)
    except OSError as error:
        raise _download_error(f"hf-hub:{name}", error) from None
    return Path(config).parent


def _download_error(what: str, error: BaseException) -> StageError:
    return StageError(
        f"cannot download {what}: {_first_line(error)}",
        hint='download it on a machine with network access and set model: "local-dir:PATH"',
    )


@_once
def clip_files(source: ClipSource) -> ClipFiles:
    """Find (for a tag or hub model: download) the files of a model and check the pinned sha256.

    Raises ConfigError, StageError and MissingExtra.
    """
    config = _clip_config(source)
    folder = _clip_folder(source)
    if folder is None:
        model, weights = source.model, _architecture_weights(source)
    else:
        if source.pretrained is not None:
            raise ConfigError(
                "pretrained goes with an architecture's name; a folder or hub model has its own weights",
                hint="remove pretrained",
            )
        model, weights = f"local-dir:{folder}", _folder_weights(folder)
    model_files.check_weights(weights)
    _check_activation(source, config, weights)
    sha256 = file_sha256(weights)
    if source.sha256 is not None and sha256 != check_sha256(source.sha256):
        raise ConfigError(f"{weights} is not the pinned file: its sha256 is {sha256}, the config says {source.sha256}")
    return ClipFiles(model, config, weights, sha256)


def _folder_weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{folder} contains no weights", hint=f"open_clip expects {_WEIGHTS[0]} in it")


def _architecture_weights(source: ClipSource) -> Path:
    if source.pretrained is None:
        raise ConfigError(f"model {source.model} needs pretrained: a weights file or an open_clip tag")
    if Path(source.pretrained).expanduser().is_file():
        return Path(source.pretrained).expanduser()
    hub = import_open_clip().pretrained
    tag = hub.get_pretrained_cfg(source.model, source.pretrained)
    if tag and tag.get("quick_gelu"):  # before the download
        _require_quick_gelu(source, _clip_config(source))
    if not tag:
        tags = ", ".join(hub.list_pretrained_tags_by_model(source.model)) or "none"
        raise ConfigError(
            f"{source.pretrained!r} is neither a file nor a tag of {source.model}", hint=f"its tags: {tags}"
        )
    try:
        return Path(hub.download_pretrained(tag, cache_dir=source.cache))
    except (OSError, RuntimeError) as error:
        raise _download_error(f"{source.model} {source.pretrained}", error) from None


def _check_activation(source: ClipSource, config: dict[str, Any], weights: Path) -> None:
    """Check a weights file against its architecture. Its activation is known where it is OpenAI's TorchScript archive,
    whose code names it, or where open_clip's config is beside it; a bare state dict does not say, and the
    architecture's is used. Raises ConfigError."""
    if _clip_folder(source) is not None:
        return
    beside = weights.parent / _CONFIG
    if beside.is_file():
        uses_quick_gelu = bool(_clip_config(ClipSource(f"local-dir:{weights.parent}")).get("quick_gelu"))
        if uses_quick_gelu != bool(config.get("quick_gelu")):
            names = {True: "QuickGELU", False: "GELU"}
            raise ConfigError(
                f"{weights} was trained with {names[uses_quick_gelu]}, and {source.model} has "
                f"{names[not uses_quick_gelu]}: {beside} says so",
                hint=f'set model: "local-dir:{weights.parent}" and remove pretrained',
            )
    elif _is_quick_gelu_archive(weights):
        _require_quick_gelu(source, config)


def _is_quick_gelu_archive(weights: Path) -> bool:
    """Whether a file is a TorchScript archive whose code has a class QuickGELU, as OpenAI's files do."""
    if not zipfile.is_zipfile(weights):
        return False
    with zipfile.ZipFile(weights) as archive:
        return any("/code/" in name and b"QuickGELU" in archive.read(name) for name in archive.namelist())


def _require_quick_gelu(source: ClipSource, config: dict[str, Any]) -> None:
    if not config.get("quick_gelu"):
        raise ConfigError(
            f"the weights {source.pretrained} were trained with the activation QuickGELU, and {source.model} has GELU: "
            "their scores would be wrong",
            hint=f"set model: {source.model}-quickgelu",
        )


class ClipModel:
    """A loaded CLIP: encodes pictures and texts as unit vectors.

    batch: rows per forward pass. The shape of a batch changes the last bits of the vectors (measured with open_clip on
        one CPU thread: about 2e-6), so the last batch is padded to full size. With 1, the default, no row depends on
        its neighbours.
    """

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any, device: Any, dtype: Any, batch: int) -> None:
        self._model, self._preprocess, self._tokenizer = model, preprocess, tokenizer
        self._device, self._dtype, self._batch = device, dtype, batch
        self._tokenizing = threading.Lock()  # tokenizers of the hub set their padding anew in each call

    def encode_images(self, pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """pictures: uint8 RGB (height, width, 3), any size; they go through open_clip's own evaluation transform.
        Returns float64 (n, d), rows of length 1, or NaN where the model gave no finite, non-zero vector."""
        from PIL import Image

        def preprocess(group: list[NDArray[np.uint8]]) -> Any:
            rows = [self._preprocess(Image.fromarray(np.ascontiguousarray(picture))) for picture in group]
            return import_torch().stack(rows).to(self._dtype)

        return self._encode(pictures, preprocess, self._model.encode_image)

    def encode_texts(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """Like `encode_images`, for texts, which open_clip cuts off at the model's context."""
        return self._encode(texts, self._tokenize, self._model.encode_text)

    def _tokenize(self, texts: list[str]) -> Any:
        with self._tokenizing:
            return self._tokenizer(texts)

    def _encode(
        self, rows: Iterable[Any], prepare: Callable[[list[Any]], Any], run: Callable[[Any], Any]
    ) -> NDArray[np.float64]:
        batches = []
        with import_torch().inference_mode():
            for group in _groups(rows, self._batch):
                inputs = prepare(group).to(self._device)
                padding = inputs[-1:].repeat(self._batch - len(group), *[1] * (inputs.ndim - 1))
                vectors = run(import_torch().cat([inputs, padding]))
                batches.append(vectors.float().cpu().numpy()[: len(group)])
        return unit_rows(np.concatenate(batches)) if batches else np.zeros((0, 0))


def unit_rows(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """float64 (n, d): each row divided by its length; NaN where the length is 0 or not finite."""
    rows = np.ascontiguousarray(vectors, np.float64)
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    usable = np.isfinite(lengths) & (lengths > 0)
    unit: NDArray[np.float64] = np.where(usable, rows, np.nan) / np.where(usable, lengths, 1.0)
    return unit


def _groups(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    group: list[Any] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


@_once
def load_clip(source: ClipSource, device: Device = "cpu", dtype: Dtype = "float32", batch: int = 1) -> ClipModel:
    """The model, once per process. Raises ConfigError, StageError and MissingExtra."""
    library, clip = import_torch("alignment"), import_open_clip()
    from safetensors import SafetensorError

    files = clip_files(source)
    torch_device = check_device(device)
    # open_clip logs every step and every unknown size to the root logger; problems that matter are exceptions.
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        model, preprocess = clip.create_model_from_pretrained(
            files.model,
            pretrained=_weights_file(source) or source.pretrained,
            precision=_PRECISION[dtype],
            device=torch_device,
            cache_dir=source.cache,
        )
        tokenizer = clip.get_tokenizer(files.model, cache_dir=source.cache)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ConfigError(f"open_clip cannot load {source.model}: {_first_line(error)}") from None
    finally:
        logging.getLogger().setLevel(level)
    return ClipModel(model.eval(), preprocess, tokenizer, torch_device, getattr(library, dtype), batch)


def _weights_file(source: ClipSource) -> str | None:
    """`source.pretrained` when it is a file, with ~ filled in."""
    path = Path(source.pretrained or "").expanduser()
    return str(path) if path.is_file() else None


def clip_fingerprint_inputs(source: ClipSource, device: Device, dtype: Dtype, batch: int) -> dict[str, object]:
    """Everything that determines this model's vectors, without any path: the config, the weights' sha256, device, type
    and batch shape."""
    files = clip_files(source)
    inputs: dict[str, object] = {"weights_sha256": files.sha256, "config": files.config}
    if files.model == source.model and not source.model.startswith("local-dir:"):
        # A tag also sets normalisation and resizing.
        tag = None if _weights_file(source) else source.pretrained
        inputs |= {"model": source.model, "weights": tag}
    return inputs | {"device": device, "dtype": dtype, "batch": batch}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
