"""doctor: check what is installed, which engines are in use, what a config needs, and how to install what is missing.

Changes nothing and downloads nothing; the network is used only where the config names a remote path or a server.
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

from infra import storage
from infra.config import Source, validate
from infra.errors import ConfigError, MissingExtra, ReelmillError, StageError
from infra.weights import models
from pipelines.core.console import print_table, print_text
from pipelines.core.resolve import check, resolve
from pipelines.core.run import Run, open_run
from pipelines.ingest.sources import registry

#: Codecs of videos, with FFmpeg's decoders, best first.
DECODERS: Mapping[str, tuple[str, ...]] = {
    "h264": ("h264",),
    "hevc": ("hevc",),
    "vp9": ("vp9", "libvpx-vp9"),
    "av1": ("libdav1d", "libaom-av1"),  # FFmpeg's own "av1" decodes in hardware only
    "mpeg4": ("mpeg4",),
}
#: First patch release of each Python whose tarfile has the fixes of CVE-2025-4517, its siblings and CVE-2025-8194.
TARFILE_FIXED: Mapping[tuple[int, int], int] = {(3, 11): 14, (3, 12): 12, (3, 13): 6}
_INSTALL = 'pip install -c constraints.txt -e ".{}"'
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?[^;]*(?:;.*extra == [\"']([^\"']+)[\"'])?")


@dataclass(frozen=True)
class DoctorFinding:
    """Result of one check. ok: in order. needed: nothing (or not this config) can run without it; others are
    information. detail: what was found. fix: what to do, "" for nothing."""

    name: str
    ok: bool
    needed: bool
    detail: str
    fix: str = ""


@dataclass
class Requirements:
    """The requirements of a config: annotators with their settings, modalities, extras. Without a config: none."""

    settings: dict[str, Any] = field(default_factory=dict)
    modalities: frozenset[str] = frozenset()

    @property
    def extras(self) -> frozenset[str]:
        extras = set()
        for name, settings in self.settings.items():
            if name in ("alignment", "video_alignment") or (name == "fingerprint" and settings.engine == "sscd"):
                extras.add("models")
            if name == "overlay":
                extras.add("ocr" if settings.engine == "rapidocr" else "paddle")
        return frozenset(extras)


def run(config: str | None = None) -> dict[str, Any]:
    """Check this machine, and a config where one is given: {"findings": [{name, ok, needed, detail, fix}, …]}.

    Raises ConfigError, with file and line, where the config itself is wrong.
    """
    run = None if config is None else open_run(config)
    needs = Requirements() if run is None else requirements_of(run)
    findings = [
        _check_python(), _check_tarfile(), *_check_packages(needs), *_check_codecs(needs), _check_faiss(),
        _check_torch(needs), _check_ocr(needs), _check_language(needs),
    ]  # fmt: skip
    if run is not None:
        findings += _check_config(run, needs)
    return {"findings": [asdict(replace(finding, fix="") if finding.ok else finding) for finding in findings]}


def show(report: Mapping[str, Any]) -> None:
    """Print a row per finding, and what to do about those that are not in order."""
    findings = report["findings"]
    states = ("ok" if f["ok"] else "MISSING" if f["needed"] else "note" for f in findings)
    rows = [(state, f["name"], f["detail"]) for state, f in zip(states, findings, strict=True)]
    print_table("Findings", ["", "checked", "found"], rows, left_aligned=["", "checked", "found"])
    print_text(*(f"{f['name']}: {f['fix']}" for f in findings if not f["ok"] and f["fix"]))
    missing = sum(not f["ok"] and f["needed"] for f in findings)
    print_text(f"required and missing: {missing}" if missing else "nothing that is required is missing")


# -- this machine -------------------------------------------------------------------------------------------------


def _check_python() -> DoctorFinding:
    version = platform.python_version()
    return DoctorFinding(
        "python",
        sys.version_info >= (3, 11),
        True,
        f"{version} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "reelmill needs Python 3.11 or later",
    )


def _check_tarfile(version: Sequence[int] = sys.version_info[:3]) -> DoctorFinding:
    """Whether this Python's reader of tars has no published hole that a patch release has closed."""
    major, minor, patch = version
    fixed = TARFILE_FIXED.get((major, minor), 0)
    detail = f"Python {major}.{minor}.{patch}"
    if patch < fixed:
        detail += (
            " has published holes in tarfile (CVE-2025-4517, CVE-2025-8194); Reelmill reads tars and never extracts"
        )
    fix = f"install Python {major}.{minor}.{fixed} or later"
    return DoctorFinding("tarfile", patch >= fixed, False, detail, fix)


def requirements() -> dict[str, list[str]]:
    """Packages that reelmill depends on, by extra; those under "" are always needed."""
    packages: dict[str, list[str]] = {"": []}
    for line in importlib.metadata.requires("reelmill") or ():
        match = _REQUIREMENT.match(line)
        if match is not None and match[1] != "reelmill":
            packages.setdefault(match[2] or "", []).append(match[1])
    return packages


def pins(path: Path | None = None) -> dict[str, str]:
    """Read constraints.txt as {package: version}; empty where reelmill was not installed from its repository."""
    path = path or Path(__file__).parents[2] / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.split("#")[0].split(";")[0].strip().partition("==") for line in lines)
    return {_normalise(name): version for name, sign, version in pairs if sign}


def _normalise(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower().partition("[")[0]


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_packages(needs: Requirements) -> list[DoctorFinding]:
    findings = []
    pinned = pins()
    for extra, packages in requirements().items():
        if extra == "dev":
            continue
        versions = {package: _installed_version(package) for package in packages}
        absent = [package for package, version in versions.items() if version is None]
        others = []
        for package, version in versions.items():
            pin = pinned.get(_normalise(package))
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
        # Another version than the pinned one may well work: information, and no reason to stop.
        needed = (not extra or extra in needs.extras) and (bool(absent) or not others)
        findings.append(DoctorFinding(name, not absent and not others, needed, detail, fix))
    return findings


def _check_codecs(needs: Requirements) -> list[DoctorFinding]:
    import av

    def is_available(name: str) -> bool:
        try:
            av.codec.Codec(name, "r")
        except ValueError:
            return False
        return True

    findings = []
    for codec, names in DECODERS.items():
        available = [name for name in names if is_available(name)]
        detail = f"decoder {available[0]} of FFmpeg {av.ffmpeg_version_info}" if available else "no decoder in PyAV"
        fix = f"install the pinned wheel of PyAV: {_INSTALL.format('')}"
        findings.append(DoctorFinding(f"codec {codec}", bool(available), "video" in needs.modalities, detail, fix))
    return findings


def _check_faiss() -> DoctorFinding:
    import faiss

    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    built = "with" if hasattr(faiss, "StandardGpuResources") else "without"
    detail = f"faiss {faiss.__version__}, built {built} GPU support, {gpus} GPUs visible; in use: CPU"
    return DoctorFinding("faiss", True, True, detail)


def _check_torch(needs: Requirements) -> DoctorFinding:
    needed = "models" in needs.extras
    fix = _INSTALL.format("[models]")
    try:
        torch = models.import_torch("doctor")
    except MissingExtra as error:
        return DoctorFinding("torch", False, needed, error.what, fix)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(gpus)) or "no CUDA device"
    devices = sorted({s.device for s in needs.settings.values() if hasattr(s, "device")})
    ok = "cuda" not in devices or gpus > 0
    use = f"; the config requires {', '.join(devices)}" if devices else ""
    return DoctorFinding("torch", ok, not ok, f"torch {torch.__version__}, {names}{use}", "set device: cpu")


def _check_ocr(needs: Requirements) -> DoctorFinding:
    from annotators.overlay import ocr

    settings = needs.settings.get("overlay") or ocr.OcrSettings()
    try:
        files = ocr.weights(settings)
    except ReelmillError as error:
        return DoctorFinding("ocr", False, "overlay" in needs.settings, error.what, error.hint)
    package = {"rapidocr": "rapidocr", "paddle": "paddleocr"}[settings.engine]
    detail = f"{settings.engine} {_installed_version(package)}, {', '.join(path.name for path in files.values())}"
    return DoctorFinding("ocr", True, "overlay" in needs.settings, detail)


def _check_language(needs: Requirements) -> DoctorFinding:
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


def requirements_of(run: Run) -> Requirements:
    """The annotators that a config needs, with their settings; every section is checked against the settings class of
    its module. Unlike `resolve`, hashes no weights and so downloads none.

    Raises ConfigError with file and line.
    """
    checked = check(run.document, run.config)
    modalities = frozenset(source.modality for source in run.config.sources)
    return Requirements(dict(checked.annotator_settings), modalities)


def _check_servers(run: Run) -> list[DoctorFinding]:
    """Check the servers of dialogues and captions: whether they answer, what they serve, whether they obey a schema."""
    if run.config.annotate is None:
        return []
    from pipelines.annotate.settings import AnnotateSettings
    from pipelines.tools.doctor_servers import check_servers

    settings = validate(run.document, AnnotateSettings, run.config.annotate, ("annotate",))
    servers = [("annotate", settings.endpoints, settings.served_model)]
    if settings.captioner is not None:
        servers.append(("annotate.captioner", settings.captioner.endpoints, settings.captioner.model))
    findings = [DoctorFinding("annotate", True, True, f"dialogues by: {settings.generator}")]
    for name, endpoints, model in servers:
        answers = check_servers(endpoints, model)
        findings += [DoctorFinding(name, answer["ok"], True, answer["detail"], answer["fix"]) for answer in answers]
    return findings


def _check_config(run: Run, needs: Requirements) -> list[DoctorFinding]:
    findings = [_check_writable("store", run.store), _check_writable("out", run.out)]
    findings += [_check_source(source) for source in run.config.sources]
    findings += _check_servers(run)
    for name, settings in needs.settings.items():
        check_files = _FILE_CHECKS.get(name)
        if check_files is not None:
            findings += check_files(f"measure.{name}", settings)
    if all(finding.ok for finding in findings if finding.name.startswith("measure.")) and needs.extras <= {
        "models",
        "ocr",
    }:
        # Everything is on this machine: the complete check of `run`, thresholds included, needs no download.
        try:
            resolve(run)
        except MissingExtra as error:
            findings.append(DoctorFinding("config", False, True, error.what, error.hint))
        else:
            findings.append(DoctorFinding("config", True, True, f"{run.document.path}: every section is checked"))
    else:
        detail = f"{run.document.path}: every key is checked; thresholds can be checked once the models are here"
        findings.append(DoctorFinding("config", True, True, detail))
    return findings


def _check_writable(name: str, uri: str) -> DoctorFinding:
    if not storage.is_local(uri):
        return _check_remote(name, uri, "write access was not tested")
    path = storage.local_path(uri).expanduser().absolute()
    ancestor = path
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        return DoctorFinding(
            name, False, True, f"{ancestor} is a file, not a folder", f"move it, or set another {name}"
        )
    ok = os.access(ancestor, os.W_OK | os.X_OK)
    free = os.statvfs(ancestor)
    detail = f"{uri}: {free.f_bavail * free.f_frsize / 2**30:,.0f} GiB free" if ok else f"{ancestor} cannot be written"
    return DoctorFinding(name, ok, True, detail, f"give this user write permission, or set another {name}")


def _check_remote(name: str, uri: str, detail: str) -> DoctorFinding:
    try:
        exists = storage.exists(uri)
    except (OSError, ValueError, ImportError) as error:
        return DoctorFinding(
            name, False, True, f"{uri}: {error}", "check the address, credentials and fsspec's package"
        )
    return DoctorFinding(name, True, True, f"{uri}: {'exists' if exists else 'does not exist yet'}; {detail}")


def _check_source(source: Source) -> DoctorFinding:
    """List the source and read its first container, as a run does."""
    label = f"source {source.name}"
    try:
        return DoctorFinding(label, True, True, f"{source.path}: {registry.probe_source(source)}")
    except ConfigError as error:
        return DoctorFinding(label, False, True, error.what, error.hint)
    except (OSError, ValueError, ImportError) as error:
        fix = "check the address, the permissions, credentials and fsspec's package"
        return DoctorFinding(label, False, True, f"{source.path}: {error}", fix)


# -- weights and other files of annotators -------------------------------------------------------------------


def _check_clip(name: str, settings: Any) -> list[DoctorFinding]:
    """Hash a CLIP on this machine; for one that would be downloaded only check the cache."""
    if getattr(settings, "video_text", None) is not None:
        video_text = settings.video_text
        methods = ("encode_video", "encode_text")
        return [_check_script(f"{name}.video_text", video_text.weights, video_text.sha256, settings.cache, methods)]
    source = settings.source
    label = f"{name}.model"
    what = f"{source.model} {source.pretrained or ''}".strip()
    local = source.model.startswith("local-dir:") or Path(source.pretrained or "").expanduser().is_file()
    try:
        if not local and not _is_cached(source):
            fix = 'it is downloaded at first use; without a network set model: "local-dir:PATH"'
            return [DoctorFinding(label, False, False, f"{what} is not on this machine yet", fix)]
        files = models.clip_files(source)
    except (ConfigError, StageError, MissingExtra) as error:
        return [DoctorFinding(label, False, True, error.what, error.hint)]
    return [DoctorFinding(label, True, True, f"{what}: {files.weights.name}, sha256 {files.sha256[:12]}…")]


def _is_cached(source: models.ClipSource) -> bool:
    """Whether the weights of a tag or hub model are in the hub's cache. Raises ConfigError for an unknown tag."""
    hub = models.import_open_clip("doctor").pretrained
    if source.model.startswith("hf-hub:"):
        repository = source.model.removeprefix("hf-hub:")
    else:
        models.clip_input_size(source)  # raises ConfigError for an unknown architecture
        tag = hub.get_pretrained_cfg(source.model, source.pretrained or "")
        if not tag:
            tags = ", ".join(hub.list_pretrained_tags_by_model(source.model)) or "none"
            what = f"{source.pretrained!r} is neither a file nor a tag of {source.model}"
            raise ConfigError(what, hint=f"its tags: {tags}")
        repository = str(tag.get("hf_hub", "")).rstrip("/")
        url = str(tag.get("url", "")).rsplit("/", 1)[-1]
        if url and (Path(source.cache or "~/.cache/clip").expanduser() / url).is_file():
            return True
    if not repository:
        return False
    from huggingface_hub import try_to_load_from_cache

    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors")
    return any(isinstance(try_to_load_from_cache(repository, file, cache_dir=source.cache), str) for file in names)


def _check_script(name: str, uri: str, sha256: str, cache: str | None, methods: Sequence[str]) -> DoctorFinding:
    """Check a TorchScript file against its pinned hash; for a URL the downloaded copy."""
    if uri.startswith(("http://", "https://")):
        path = Path(cache or "~/.cache/reelmill/models").expanduser() / sha256
        if not path.is_file():
            fix = f"it is downloaded before the first run; without a network: fetch {uri} elsewhere and give its path"
            return DoctorFinding(name, False, False, f"{uri} is not on this machine yet", fix)
        uri = str(path)
    try:
        models.check_script(uri, sha256, None, methods)
    except (ConfigError, MissingExtra) as error:
        return DoctorFinding(name, False, True, f"{uri}: {error.what}", error.hint)
    return DoctorFinding(name, True, True, f"{Path(uri).name}, sha256 {sha256[:12]}… as pinned")


def _check_fingerprint(name: str, settings: Any) -> list[DoctorFinding]:
    if settings.engine == "pdq":
        return [DoctorFinding(name, True, True, "PDQ, built in")]
    return [_check_script(f"{name}.weights", settings.weights, settings.sha256, settings.cache, ("forward",))]


def _check_vocabulary(name: str, settings: Any) -> list[DoctorFinding]:
    from infra import vocabulary

    label = f"{name}.vocabulary"
    try:
        entries = len(vocabulary.load(settings.vocabulary).entries)
    except ConfigError as error:
        fix = "build one: reelmill vocab TEXTS… --out vocabulary.json"
        return [DoctorFinding(label, False, True, f"{settings.vocabulary}: {error.what}", fix)]
    return [DoctorFinding(label, True, True, f"{settings.vocabulary}: {entries:,} entries")]


def _check_bad_words(name: str, settings: Any) -> list[DoctorFinding]:
    path = settings.bad_words
    if path is None:
        return []
    return [
        DoctorFinding(f"{name}.bad_words", storage.is_file(path), True, path, "the file does not exist: check the path")
    ]


_FILE_CHECKS: Mapping[str, Callable[[str, Any], Sequence[DoctorFinding]]] = {
    "alignment": _check_clip,
    "video_alignment": _check_clip,
    "fingerprint": _check_fingerprint,
    "ngrams": _check_vocabulary,
    "quality": _check_bad_words,
}
