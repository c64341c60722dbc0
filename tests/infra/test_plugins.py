"""Registries of built-in classes and of those that installed packages declare."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.config import Strict
from infra.errors import ConfigError
from infra.plugins import Registry

BUILT_IN = {"strict": "infra.config:Strict"}


def install(folder: Path, distribution: str, entry_points: str, module: str = "") -> None:
    """A package as pip leaves it behind: one module, and its metadata with entry points."""
    name = distribution.replace("-", "_")
    (folder / f"{name}.py").write_text(module)
    metadata = folder / f"{name}-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(f"[test.group]\n{entry_points}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def registry() -> Registry[Strict]:
    return Registry("test.group", Strict, BUILT_IN)


GOOD = "from infra.config import Strict\nclass Good(Strict):\n    pass\n"


def test_built_in_and_installed_classes(site: Path) -> None:
    install(site, "plug-good", "good = plug_good:Good", GOOD)
    names = registry()
    assert list(names) == ["strict", "good"]
    assert len(names) == 2 and "good" in names and "bad" not in names
    assert names["strict"] is Strict
    assert issubclass(names["good"], Strict) and names["good"].__name__ == "Good"
    assert names.get("bad") is None
    assert names.distributions(["strict", "good"]) == {"plug-good": "1.2"}


def test_nothing_is_imported_for_the_names(site: Path) -> None:
    install(site, "plug-broken", "broken = plug_broken:Broken", "import no_such_module")
    assert list(registry()) == ["strict", "broken"]


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("class Other:\n    pass\n", "has no attribute 'Broken'"),
        ("class Broken:\n    pass\n", "no subclass of infra.config.Strict"),
        ("def", "SyntaxError"),
        (GOOD.replace("Good", "Broken").replace("pass", "name: str = 'x'"), None),
        ("from infra.config import Strict\nclass Broken(Strict):\n    pass\nBroken.name = 'x'", "own name is 'x'"),
    ],
)
def test_an_entry_that_cannot_be_used_names_its_package(site: Path, module: str, problem: str | None) -> None:
    name = f"plug-{len(module)}"
    install(site, name, f"broken = {name.replace('-', '_')}:Broken", module)
    if problem is None:
        assert registry()["broken"].__name__ == "Broken"
        return
    with pytest.raises(ConfigError, match=problem) as caught:
        registry()["broken"]
    assert f"{name} 1.2" in str(caught.value) and "test.group: 'broken'" in str(caught.value)


def test_names_clash(site: Path) -> None:
    install(site, "plug-one", "strict = plug_one:Good", GOOD)
    with pytest.raises(ConfigError, match=r"plug-one 1.2 .*Reelmill's own"):
        list(registry())


def test_two_packages_clash(site: Path) -> None:
    install(site, "plug-one", "good = plug_one:Good", GOOD)
    install(site, "plug-two", "good = plug_two:Good", GOOD)
    with pytest.raises(ConfigError, match=r"plug-two 1.2 .*also declared by plug-one 1.2"):
        len(registry())


def test_malformed_name(site: Path) -> None:
    install(site, "plug-one", "Go.od = plug_one:Good", GOOD)
    with pytest.raises(ConfigError, match="lower-case"):
        "x" in registry()  # noqa: B015
