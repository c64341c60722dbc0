"""doctor: what is installed, which engines are in use, what a config needs, and how to get what is missing.

Looks and never changes anything. Downloads nothing; the network is asked only where the config names a remote place.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from infra import models, storage
from infra.config import validate
from infra.errors import ConfigError, MissingExtra, ReelmillError, StageError
from infra.hashing import file_sha256
from pipelines.core.resolve import check, resolve
from pipelines.core.run import Run, open_run

#: What a video may be in; FFmpeg's decoders, best first.
DECODERS: Mapping[str, tuple[str, ...]] = {
    "h264": ("h264",),
    "hevc": ("hevc",),
    "vp9": ("vp9", "libvpx-vp9"),
    "av1": ("libdav1d", "libaom-av1"),  # FFmpeg's own "av1" decodes in hardware only
    "mpeg4": ("mpeg4",),
}
_INSTALL = 'pip install -c constraints.txt -e ".{}"'
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?[^;]*(?:;.*extra == [\"']([^\"']+)[\"'])?")


@dataclass(frozen=True)
class DoctorFinding:
    """ok: as it should be. needed: without it nothing (or not this config) can run; others are worth knowing.
    detail: what was seen. fix: what to do; "" where there is nothing to do."""

    name: str
    ok: bool
    needed: bool
    detail: str
    fix: str = ""


@dataclass
class Requirements:
    """What a config asks for: annotators with their settings, modalities, extras. Without a config: nothing."""

    settings: dict[str, Any] = field(default_factory=dict)
    modalities: frozenset[str] = frozenset()

    @property
    def extras(self) -> frozenset[str]:
        found = set()
        for name, settings in self.settings.items():
            if name in ("alignment", "video_alignment") or (name == "fingerprint" and settings.engine == "sscd"):
                found.add("models")
            if name == "overlay":
                found.add("ocr" if settings.engine == "rapidocr" else "paddle")
        return frozenset(found)


def run(config: str | None = None) -> dict[str, Any]:
    """{"findings": [{name, ok, needed, detail, fix}, …]} about this machine, and about a config where one is given.

    Raises ConfigError, with file and line, where the config itself is wrong.
    """
    run = None if config is None else open_run(config)
    needs = Requirements() if run is None else needs_of(run)
    found = [_python(), *_packages(needs), *_codecs(needs), _faiss(), _torch(needs), _ocr(needs), _language(needs)]
    if run is not None:
        found += _config(run, needs)
    return {"findings": [asdict(one if not one.ok else replace(one, fix="")) for one in found]}


def show(value: Mapping[str, Any]) -> None:
    """One row a finding, and what to do about those that are not as they should be."""
    from rich.table import Table
    from rich.text import Text

    from pipelines.core.console import open_console

    out = open_console()
    table = Table(title="What reelmill finds here", title_justify="left")
    for column in ("", "what", "seen"):
        table.add_column(column, overflow="fold")
    for one in value["findings"]:
        mark = "ok" if one["ok"] else ("MISSING" if one["needed"] else "note")
        table.add_row(mark, one["name"], Text(one["detail"]))
    out.print(table)
    for one in value["findings"]:
        if not one["ok"] and one["fix"]:
            out.print(f"{one['name']}: {one['fix']}", markup=False, highlight=False, soft_wrap=True)
    missing = sum(not one["ok"] and one["needed"] for one in value["findings"])
    out.print(f"what is missing: {missing}" if missing else "nothing that is needed is missing", highlight=False)


# -- this machine -------------------------------------------------------------------------------------------------


def _python() -> DoctorFinding:
    version = platform.python_version()
    return DoctorFinding(
        "python",
        sys.version_info >= (3, 11),
        True,
        f"{version} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "reelmill needs Python 3.11 or later",
    )


def requirements() -> dict[str, list[str]]:
    """Packages that reelmill names, by extra; "" are those that it always needs."""
    found: dict[str, list[str]] = {"": []}
    for line in importlib.metadata.requires("reelmill") or ():
        match = _REQUIREMENT.match(line)
        if match is not None and match[1] != "reelmill":
            found.setdefault(match[2] or "", []).append(match[1])
    return found


def pins(path: Path | None = None) -> dict[str, str]:
    """constraints.txt as {package: version}; empty where reelmill was not installed from its repository."""
    path = path or Path(__file__).parents[2] / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.split("#")[0].split(";")[0].strip().partition("==") for line in lines)
    return {_normal(name): version for name, sign, version in pairs if sign}


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower().partition("[")[0]


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages(needs: Requirements) -> list[DoctorFinding]:
    found = []
    pinned = pins()
    for extra, packages in requirements().items():
        if extra == "dev":
            continue
        versions = {package: _installed(package) for package in packages}
        absent = [package for package, version in versions.items() if version is None]
        others = []
        for package, version in versions.items():
            pin = pinned.get(_normal(package))
            # A build for another accelerator ("2.13.0+cpu") is the same version.
            if version is not None and pin is not None and version.partition("+")[0] != pin:
                others.append(f"{package} {version} (pinned: {pin})")
        detail = f"{len(packages) - len(absent)} of {len(packages)} packages"
        if absent:
            detail += f"; absent: {', '.join(absent)}"
        if others:
            detail += f"; other versions: {', '.join(others)}"
        name = f"extra {extra}" if extra else "packages"
        fix = _INSTALL.format(f"[{extra}]" if extra else "")
        # Another version than the pinned one may well work: worth knowing, and no reason to stop.
        needed = (not extra or extra in needs.extras) and (bool(absent) or not others)
        found.append(DoctorFinding(name, not absent and not others, needed, detail, fix))
    return found


def _codecs(needs: Requirements) -> list[DoctorFinding]:
    import av

    def known(name: str) -> bool:
        try:
            av.codec.Codec(name, "r")
        except ValueError:
            return False
        return True

    found = []
    for codec, names in DECODERS.items():
        there = [name for name in names if known(name)]
        detail = f"decoder {there[0]} of FFmpeg {av.ffmpeg_version_info}" if there else "no decoder in this PyAV"
        fix = f"install the wheel of PyAV that is pinned: {_INSTALL.format('')}"
        found.append(DoctorFinding(f"codec {codec}", bool(there), "video" in needs.modalities, detail, fix))
    return found


def _faiss() -> DoctorFinding:
    import faiss

    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    built = "with" if hasattr(faiss, "StandardGpuResources") else "without"
    detail = f"faiss {faiss.__version__}, built {built} GPU support, {gpus} GPUs seen; in use: CPU"
    return DoctorFinding("faiss", True, True, detail)


def _torch(needs: Requirements) -> DoctorFinding:
    wanted = "models" in needs.extras
    fix = _INSTALL.format("[models]")
    try:
        torch = models.import_torch("doctor")
    except MissingExtra as error:
        return DoctorFinding("torch", False, wanted, error.what, fix)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(gpus)) or "no CUDA device"
    asked = sorted({s.device for s in needs.settings.values() if hasattr(s, "device")})
    ok = "cuda" not in asked or gpus > 0
    use = f"; the config asks for {', '.join(asked)}" if asked else ""
    return DoctorFinding("torch", ok, not ok, f"torch {torch.__version__}, {names}{use}", "set device: cpu")


def _ocr(needs: Requirements) -> DoctorFinding:
    from annotators import ocr

    settings = needs.settings.get("overlay") or ocr.OcrSettings()
    try:
        files = ocr.weights(settings)
    except ReelmillError as error:
        return DoctorFinding("ocr", False, "overlay" in needs.settings, error.what, error.hint)
    package = {"rapidocr": "rapidocr", "paddle": "paddleocr"}[settings.engine]
    detail = f"{settings.engine} {_installed(package)}, {', '.join(path.name for path in files.values())}"
    return DoctorFinding("ocr", True, "overlay" in needs.settings, detail)


def _language(needs: Requirements) -> DoctorFinding:
    from annotators.language import Language, LanguageSettings

    fix = _INSTALL.format("")
    needed = "language" in needs.settings
    settings = needs.settings.get("language") or LanguageSettings()
    if importlib.util.find_spec("fasttext") is None:
        return DoctorFinding("language model", False, needed, "the module fasttext is not installed", fix)
    try:
        sha256 = str(Language(settings).fingerprint_inputs()["model"])
    except MissingExtra as error:
        return DoctorFinding("language model", False, needed, error.what, fix)
    except OSError as error:
        return DoctorFinding("language model", False, needed, f"{settings.model}: {error.strerror}", "check the path")
    return DoctorFinding("language model", True, needed, f"{settings.model or 'lid.176.ftz'}, sha256 {sha256[:12]}…")


# -- a config ---------------------------------------------------------------------------------------------------


def needs_of(run: Run) -> Requirements:
    """The annotators that a config comes to, with their settings; every part of it is checked against the settings
    of the module that it names. Unlike `resolve`, hashes no weights and so downloads none.

    Raises ConfigError with file and line.
    """
    checked = check(run.document, run.config)
    return Requirements(dict(checked.annotator_settings), frozenset(source.modality for source in run.config.sources))


def _servers(run: Run) -> list[DoctorFinding]:
    """The servers of dialogues and captions: whether they answer, what they serve, whether they obey a schema."""
    if run.config.annotate is None:
        return []
    from pipelines.annotate.settings import AnnotateSettings
    from pipelines.tools.doctor_servers import look

    settings = validate(run.document, AnnotateSettings, run.config.annotate, ("annotate",))
    asked = [("annotate", settings.endpoints, settings.served_model)]
    if settings.captioner is not None:
        asked.append(("annotate.captioner", settings.captioner.endpoints, settings.captioner.model))
    found = [DoctorFinding("annotate", True, True, f"dialogues by: {settings.generator}")]
    for name, endpoints, model in asked:
        found += [DoctorFinding(name, one["ok"], True, one["detail"], one["fix"]) for one in look(endpoints, model)]
    return found


def _config(run: Run, needs: Requirements) -> list[DoctorFinding]:
    found = [_writable("store", run.store), _writable("out", run.out)]
    found += [_source(source.name, source.path, source.captions.file) for source in run.config.sources]
    found += _servers(run)
    for name, settings in needs.settings.items():
        look = _WEIGHTS.get(name)
        if look is not None:
            found += look(f"measure.{name}", settings)
    if all(one.ok for one in found if one.name.startswith("measure.")) and needs.extras <= {"models", "ocr"}:
        # Everything is on this machine: the whole check of `run`, thresholds included, costs no download.
        try:
            resolve(run)
        except MissingExtra as error:
            found.append(DoctorFinding("config", False, True, error.what, error.hint))
        else:
            found.append(DoctorFinding("config", True, True, f"{run.document.path}: every part is checked"))
    else:
        detail = f"{run.document.path}: every key is checked; the rest once its models are here"
        found.append(DoctorFinding("config", True, True, detail))
    return found


def _writable(name: str, place: str) -> DoctorFinding:
    if not storage.is_local(place):
        return _remote(name, place, "not tried whether it can be written")
    path = storage.local_path(place).expanduser().absolute()
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return DoctorFinding(name, False, True, f"{there} is a file, not a folder", f"move it, or set another {name}")
    ok = os.access(there, os.W_OK | os.X_OK)
    free = os.statvfs(there)
    detail = f"{place}: {free.f_bavail * free.f_frsize / 2**30:,.0f} GiB free" if ok else f"{there} cannot be written"
    return DoctorFinding(name, ok, True, detail, f"give this user the right to write there, or set another {name}")


def _remote(name: str, place: str, detail: str) -> DoctorFinding:
    try:
        there = storage.exists(place)
    except (OSError, ValueError, ImportError) as error:
        return DoctorFinding(
            name, False, True, f"{place}: {error}", "check the address, credentials and fsspec's package"
        )
    return DoctorFinding(name, True, True, f"{place}: {'there' if there else 'not there yet'}; {detail}")


def _source(name: str, place: str, captions: str | None) -> DoctorFinding:
    label = f"source {name}"
    fix = "check the path and its ${VARIABLES}"
    try:
        if not storage.exists(place):
            return DoctorFinding(label, False, True, f"there is nothing at {place}", fix)
        is_file = storage.is_file(place)
        empty = not is_file and storage.is_local(place) and not any(storage.local_path(place).iterdir())
        if captions is not None and not storage.is_file(storage.join(place, captions)):
            return DoctorFinding(label, False, True, f"there is no captions file {captions} in {place}", fix)
    except (OSError, ValueError, ImportError) as error:
        return DoctorFinding(label, False, True, f"{place}: {error}", fix)
    if empty:
        return DoctorFinding(label, False, False, f"{place} is empty", fix)
    return DoctorFinding(label, True, True, f"{place}: {'a file' if is_file else 'a folder'}")


# -- weights and other files that annotators name -------------------------------------------------------------------


def _clip(name: str, settings: Any) -> list[DoctorFinding]:
    """A CLIP on this machine is hashed; one that would be downloaded is looked for in the cache only."""
    if getattr(settings, "video_text", None) is not None:
        asked = settings.video_text
        return [_pinned(f"{name}.video_text", asked.weights, asked.sha256, settings.cache)]
    source = settings.source
    label = f"{name}.model"
    what = f"{source.model} {source.pretrained or ''}".strip()
    local = source.model.startswith("local-dir:") or Path(source.pretrained or "").expanduser().is_file()
    try:
        if not local and not _cached(source):
            fix = 'it is downloaded at first use; without network give model: "local-dir:PATH"'
            return [DoctorFinding(label, False, False, f"{what} is not on this machine yet", fix)]
        files = models.clip_files(source)
    except (ConfigError, StageError, MissingExtra) as error:
        return [DoctorFinding(label, False, True, error.what, error.hint)]
    return [DoctorFinding(label, True, True, f"{what}: {files.weights.name}, sha256 {files.sha256[:12]}…")]


def _cached(source: models.ClipSource) -> bool:
    """Whether the weights of a tag or hub model lie in the hub's cache. Raises ConfigError for an unknown tag."""
    hub = models.import_open_clip("doctor").pretrained
    if source.model.startswith("hf-hub:"):
        repository = source.model.removeprefix("hf-hub:")
    else:
        models.clip_input_size(source)  # an unknown architecture is told at once
        tag = hub.get_pretrained_cfg(source.model, source.pretrained or "")
        if not tag:
            known = ", ".join(hub.list_pretrained_tags_by_model(source.model)) or "none"
            what = f"{source.pretrained!r} is neither a file nor a tag of {source.model}"
            raise ConfigError(what, hint=f"its tags: {known}")
        repository = str(tag.get("hf_hub", "")).rstrip("/")
        url = str(tag.get("url", "")).rsplit("/", 1)[-1]
        if url and (Path(source.cache or "~/.cache/clip").expanduser() / url).is_file():
            return True
    if not repository:
        return False
    from huggingface_hub import try_to_load_from_cache

    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors")
    return any(isinstance(try_to_load_from_cache(repository, file, cache_dir=source.cache), str) for file in names)


def _pinned(name: str, place: str, sha256: str, cache: str | None) -> DoctorFinding:
    """A file that is loaded only when it has its hash; a URL is looked for among what was downloaded."""
    path = Path(place).expanduser()
    if place.startswith(("http://", "https://")):
        path = Path(cache or "~/.cache/reelmill/models").expanduser() / sha256
        if not path.is_file():
            fix = f"it is downloaded at first use; without network: fetch {place} elsewhere and give its path"
            return DoctorFinding(name, False, False, f"{place} is not on this machine yet", fix)
    if not path.is_file():
        return DoctorFinding(
            name, False, True, f"there is no file {path}", "docs/models.md says where weights come from"
        )
    found = file_sha256(path)
    if found != sha256:
        fix = "pin the sha256 that a source you trust publishes, or fetch the file again"
        return DoctorFinding(name, False, True, f"{path} has sha256 {found}, the config says {sha256}", fix)
    return DoctorFinding(name, True, True, f"{path.name}, sha256 {sha256[:12]}… as pinned")


def _fingerprint(name: str, settings: Any) -> list[DoctorFinding]:
    if settings.engine == "pdq":
        return [DoctorFinding(name, True, True, "PDQ, built in")]
    return [_pinned(f"{name}.weights", settings.weights, settings.sha256, settings.cache)]


def _vocabulary(name: str, settings: Any) -> list[DoctorFinding]:
    from infra import vocabulary

    label = f"{name}.vocabulary"
    try:
        entries = len(vocabulary.load(settings.vocabulary).entries)
    except ConfigError as error:
        fix = "make one: reelmill vocab TEXTS… --out vocabulary.json"
        return [DoctorFinding(label, False, True, f"{settings.vocabulary}: {error.what}", fix)]
    return [DoctorFinding(label, True, True, f"{settings.vocabulary}: {entries:,} entries")]


def _bad_words(name: str, settings: Any) -> list[DoctorFinding]:
    path = settings.bad_words
    if path is None:
        return []
    return [
        DoctorFinding(f"{name}.bad_words", Path(path).is_file(), True, path, "there is no such file: check the path")
    ]


_WEIGHTS: Mapping[str, Callable[[str, Any], Sequence[DoctorFinding]]] = {
    "alignment": _clip,
    "video_alignment": _clip,
    "fingerprint": _fingerprint,
    "ngrams": _vocabulary,
    "quality": _bad_words,
}
