"""Loading: what is pinned is checked, what is missing is explained, what is loaded is loaded once."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import ConfigError, MissingExtra, StageError
from infra.weights import models

torch = pytest.importorskip("torch")

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights in open_clip's folder format."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(3)
    model = models.import_open_clip().CLIP(**TINY)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    return folder


class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("script") / "double.torchscript.pt"
    torch.jit.script(Double()).save(str(path))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def server(script: tuple[Path, str]) -> Iterator[tuple[str, list[str]]]:
    """A web server for the script's folder, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(script[0].parent))

        def log_message(self, form: str, *arguments: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_importing_the_module_loads_no_heavy_library() -> None:
    heavy = ("torch", "torchvision", "open_clip")
    code = f"import sys, infra.weights.models; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_torch_runs_on_one_thread() -> None:
    torch.set_num_threads(2)
    assert models.import_torch().get_num_threads() == 1


@pytest.mark.parametrize("package", ["torch", "torchvision", "open_clip"])
def test_a_missing_package_names_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = models.importlib.util.find_spec
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(MissingExtra, match=package) as caught:
        models.import_open_clip("alignment")
    assert "[models]" in str(caught.value)


def test_torchvision_transforms_work_whichever_build_is_installed() -> None:
    resized = models.import_torchvision().transforms.Resize(4)(torch.zeros(3, 8, 16))
    assert tuple(resized.shape) == (3, 4, 8)


def test_a_script_loads_once_with_its_hash(script: tuple[Path, str]) -> None:
    path, sha256 = script
    module = models.load_script(str(path), sha256)
    assert module is models.load_script(str(path), sha256)
    assert not module.training
    assert module(torch.ones(2)).tolist() == [2.0, 2.0]


def test_threads_that_load_together_get_one_instance(script: tuple[Path, str], tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(script[0].read_bytes())
    instances: list[int] = []
    threads = [
        threading.Thread(target=lambda: instances.append(id(models.load_script(str(copy), script[1]))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(instances) == 4
    assert len(set(instances)) == 1


def test_a_script_with_another_hash_is_never_loaded(script: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("loaded before the hash was checked")

    monkeypatch.setattr(torch.jit, "load", refuse)
    with pytest.raises(ConfigError, match=script[1]):
        models.load_script(str(script[0]), "0" * 64)


def test_a_hash_must_look_like_one(script: tuple[Path, str]) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        models.load_script(str(script[0]), "abc")


def test_a_file_that_is_no_script_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "no.pt"
    path.write_bytes(b"not a script")
    with pytest.raises(ConfigError, match="cannot load this module"):
        models.load_script(str(path), hashlib.sha256(b"not a script").hexdigest())
    with pytest.raises(ConfigError, match="cannot read"):
        models.load_script(str(tmp_path / "absent.pt"), "0" * 64)


def test_a_url_is_downloaded_once_and_checked_each_time(
    script: tuple[Path, str], server: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, asked = f"{server[0]}/{script[0].name}", server[1]
    cache = tmp_path / "cache"
    content = models.fetch(url, script[1], str(cache))
    assert content == script[0].read_bytes()
    assert models.fetch(url, script[1], str(cache)) == content
    assert len(asked) == 1
    (cache / script[1]).write_bytes(b"damaged")
    assert models.fetch(url, script[1], str(cache)) == content
    assert len(asked) == 2
    assert [p.name for p in cache.iterdir()] == [script[1]]


def test_a_url_with_another_hash_is_refused_and_not_kept(
    script: tuple[Path, str], server: tuple[str, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="not the pinned file"):
        models.fetch(f"{server[0]}/{script[0].name}", "0" * 64, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_is_explained(server: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot download") as caught:
        models.fetch(f"{server[0]}/absent.pt", "0" * 64, str(tmp_path))
    assert "give its path" in str(caught.value)


def test_clip_loads_from_a_folder_without_the_network(tiny_clip: Path) -> None:
    source = models.ClipSource(f"local-dir:{tiny_clip}")
    clip = models.load_clip(source)
    assert clip is models.load_clip(source)
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image, text = clip.encode_images([picture]), clip.encode_texts(["a red ball"])
    assert image.shape == text.shape == (1, 16)
    np.testing.assert_allclose([np.linalg.norm(image), np.linalg.norm(text)], 1, atol=1e-12)


def test_input_size_and_fingerprint_need_no_torch(tiny_clip: Path) -> None:
    code = (
        "import sys; from infra.weights import models; "
        f"s = models.ClipSource('local-dir:{tiny_clip}'); "
        "print(models.clip_input_size(s), models.clip_input_size(models.ClipSource('ViT-L-14-336', 'openai')), "
        "bool(models.clip_fingerprint_inputs(s, 'cpu', 'float32', 1)), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["32", "336", "True", "False"], done.stderr


def test_fingerprint_inputs_contain_the_weights_and_no_path(tiny_clip: Path) -> None:
    maker = models.clip_fingerprint_inputs(models.ClipSource(f"local-dir:{tiny_clip}"), "cpu", "float32", 1)
    weights = (tiny_clip / "open_clip_model.safetensors").read_bytes()
    assert maker["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert str(tiny_clip.parent) not in json.dumps(maker)


def test_fingerprint_inputs_distinguish_architectures_and_tags(tiny_clip: Path) -> None:
    weights = str(tiny_clip / "open_clip_model.safetensors")
    base = models.clip_fingerprint_inputs(models.ClipSource("ViT-B-32", weights), "cpu", "float32", 1)
    larger = models.clip_fingerprint_inputs(models.ClipSource("ViT-B-16", weights), "cpu", "float32", 1)
    assert base != larger
    assert base["weights"] is None


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (models.ClipSource("local-dir:/nowhere/at/all"), "folder not found"),
        (models.ClipSource("no-such-net", "openai"), "no architecture"),
        (models.ClipSource("ViT-B-32"), "needs pretrained"),
        (models.ClipSource("ViT-B-32", "no_such_tag"), "neither a file nor a tag"),
        (models.ClipSource("ftp:place"), "unknown kind of model"),
        (models.ClipSource("ViT-B-32", "openai"), "activation QuickGELU, and ViT-B-32 has GELU"),
    ],
)
def test_a_wrong_source_is_explained(source: models.ClipSource, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        models.clip_files(source)


def test_the_activation_is_that_of_the_weights(tiny_clip: Path, tmp_path: Path) -> None:
    """The same weights, loaded as QuickGELU and as GELU by what the config of their folder says."""
    picture = np.random.default_rng(3).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    config = json.loads((tiny_clip / "open_clip_config.json").read_text())
    vectors = {}
    for quick_gelu in (True, False):
        folder = tmp_path / str(quick_gelu)
        folder.mkdir()
        config["model_cfg"]["quick_gelu"] = quick_gelu
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        shutil.copy(tiny_clip / "open_clip_model.safetensors", folder)
        clip = models.load_clip(models.ClipSource(f"local-dir:{folder}"))
        names = {type(module).__name__ for module in clip._model.modules()}
        assert ("QuickGELU" in names, "GELU" in names) == (quick_gelu, not quick_gelu)
        vectors[quick_gelu] = clip.encode_images([picture])
    assert not np.allclose(vectors[True], vectors[False])
    weights = tmp_path / "True" / "open_clip_model.safetensors"
    with pytest.raises(ConfigError, match="was trained with QuickGELU, and ViT-B-32 has GELU"):
        models.clip_files(models.ClipSource("ViT-B-32", str(weights)))
    assert models.clip_files(models.ClipSource("ViT-B-32-quickgelu", str(weights))).weights == weights


class QuickGELU(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


def test_an_archive_as_openai_publishes_says_its_activation(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Sequential(QuickGELU())).save(str(tmp_path / "ViT-B-32.pt"))
    torch.jit.script(torch.nn.Sequential(torch.nn.GELU())).save(str(tmp_path / "gelu.pt"))
    with pytest.raises(ConfigError, match="activation QuickGELU, and ViT-B-32 has GELU"):
        models.clip_files(models.ClipSource("ViT-B-32", str(tmp_path / "ViT-B-32.pt")))
    for model, name in (("ViT-B-32-quickgelu", "ViT-B-32.pt"), ("ViT-B-32", "gelu.pt")):
        assert models.clip_files(models.ClipSource(model, str(tmp_path / name))).weights == tmp_path / name


def test_tags_and_architectures_agree_on_the_activation() -> None:
    """Each tag that needs QuickGELU has an architecture with it, and that pair is accepted."""
    import open_clip

    quick = {model for model in open_clip.list_models() if model.endswith("-quickgelu")}
    for model, tag in open_clip.list_pretrained():
        if not open_clip.pretrained.get_pretrained_cfg(model, tag).get("quick_gelu") or model in quick:
            continue
        assert f"{model}-quickgelu" in quick
        with pytest.raises(ConfigError, match=f"set model: {model}-quickgelu"):
            models.clip_files(models.ClipSource(model, tag))


def test_wrong_weights_are_explained(tiny_clip: Path, tmp_path: Path) -> None:
    config = (tiny_clip / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    source = models.ClipSource(f"local-dir:{tmp_path}")
    with pytest.raises(ConfigError, match="contains no weights"):
        models.load_clip(source)
    from safetensors.numpy import save_file

    save_file({"other": np.zeros(3, np.float32)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ConfigError, match="cannot load"):
        models.load_clip(source)
    with pytest.raises(ConfigError, match="not the pinned file"):
        models.load_clip(models.ClipSource(f"local-dir:{tiny_clip}", sha256="0" * 64))
    with pytest.raises(ConfigError, match="own weights"):
        models.load_clip(models.ClipSource(f"local-dir:{tiny_clip}", pretrained="openai"))
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="not an open_clip config"):
        models.clip_input_size(source)


def test_a_device_that_is_not_there_is_explained() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match="no CUDA device"):
        models.check_device("cuda")


def test_a_row_does_not_depend_on_its_batch(tiny_clip: Path) -> None:
    rng = np.random.default_rng(5)
    pictures = list(rng.integers(0, 256, (13, 32, 40, 3), dtype=np.uint8))
    source = models.ClipSource(f"local-dir:{tiny_clip}")
    for batch in (1, 4):
        clip = models.load_clip(source, "cpu", "float32", batch)
        together = clip.encode_images(pictures)
        assert together.tobytes() == np.concatenate([clip.encode_images([p]) for p in pictures]).tobytes()
        assert together.tobytes() == clip.encode_images(pictures[::-1])[::-1].tobytes()


def test_unit_rows() -> None:
    rows = models.unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]], np.float32))
    np.testing.assert_array_equal(rows[0], [0.6, 0.8])
    assert np.isnan(rows[1:]).all()


WEIGHTS = Path(__file__).parents[3] / "pipelines" / "demo" / "weights"


@pytest.mark.parametrize(("kind", "file"), [("clip", "open_clip_model.safetensors"), ("copy", "copy.torchscript.pt")])
def test_the_demos_weights_are_those_of_their_card(kind: str, file: str) -> None:
    card = json.loads((WEIGHTS / kind / "card.json").read_text(encoding="utf-8"))
    assert card["weights_sha256"] == hashlib.sha256((WEIGHTS / kind / file).read_bytes()).hexdigest()
    assert str(card["threshold"]) in (WEIGHTS / kind / "README.md").read_text(encoding="utf-8")


def test_the_demos_clip_loads_and_distinguishes_colours() -> None:
    clip = models.load_clip(models.ClipSource(f"local-dir:{WEIGHTS / 'clip'}"))
    from pipelines.demo import scenes
    from pipelines.demo.film import Film

    right = 0
    for i in range(12):
        scene = scenes.make_scene(5, "train", f"models test {i}", subjects_n=1, tint="sepia")
        another_colour = "blue" if scene.subjects[0].colour != "blue" else "orange"
        caption = scene.describe(still=True)
        picture = clip.encode_images([Film(scene, 160, 120).frame(0.0)])
        words = clip.encode_texts([caption, caption.replace(scene.subjects[0].colour, another_colour)])
        own, wrong = (picture @ words.T)[0]
        right += int(own > wrong)
    assert right >= 10


def test_the_demos_copy_descriptor_gives_unit_vectors_at_any_size() -> None:
    card = json.loads((WEIGHTS / "copy" / "card.json").read_text(encoding="utf-8"))
    model = models.load_script(str(WEIGHTS / "copy" / "copy.torchscript.pt"), card["weights_sha256"])
    for shape in ((2, 3, 64, 64), (1, 3, 320, 320), (3, 3, 100, 180)):
        vectors = model(torch.rand(shape))
        assert tuple(vectors.shape) == (shape[0], 512)
        np.testing.assert_allclose(vectors.norm(dim=1).detach().numpy(), 1, atol=1e-5)
