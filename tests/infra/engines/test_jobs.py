"""Phases of one job: each begins when the one before is done."""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import beam
from infra.engines.jobs import Phase, run_phases
from infra.errors import ConfigError


def list_names(folder: Path, names: Sequence[str]) -> Sequence[str]:
    """As the tasks of a phase follow from the files of the one before."""
    return [f"{name}{len(list(folder.iterdir()))}" for name in names]


def write(folder: Path, name: str) -> list[str]:
    (folder / name).touch()
    return [name]


def merge(results: Iterable[list[str]]) -> list[str]:
    return sorted(name for names in results for name in names)


def keep(uri: Path, names: list[str] | None) -> None:
    uri.write_text("none" if names is None else " ".join(names))


def refuse() -> Sequence[str]:
    raise ConfigError("nothing fits", where="c.yaml:3", hint="mend it")


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_tasks_follow_from_all_results_of_the_phase_before(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int]
) -> None:
    folder, notes = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("notes")
    phases = []
    for number, count in enumerate(counts):
        names = [f"{number}-{task:02d}-" for task in range(count)]
        phases.append(
            Phase(
                f"phase {number}",
                functools.partial(list_names, folder, names),
                functools.partial(write, folder),
                merge,
                functools.partial(keep, notes / str(number)),
            )
        )
    run_phases("job", phases, beam.Runner(), str(notes / "phases"))
    made = 0
    for number, count in enumerate(counts):
        note = notes / str(number)
        names = [f"{number}-{task:02d}-{made}" for task in range(count)]
        assert note.read_text() == (" ".join(names) if names else "none")
        made += count


def count(name: str) -> dict[str, int]:
    return {"rows": int(name)}


def write_counters(uri: Path, counters: dict[str, int] | None) -> None:
    uri.write_text(json.dumps(counters))


@pytest.mark.parametrize("workers", [1, 2])
def test_counters_are_summed_and_phases_counted(tmp_path: Path, workers: int) -> None:
    tasks = functools.partial(list, [str(number) for number in range(40)])
    end = functools.partial(write_counters, tmp_path / "counters.json")
    phases = [Phase("a", tasks, count), Phase("b", tasks, count, finish=end)]
    (tmp_path / "phases").mkdir()
    (tmp_path / "phases" / "07.json").touch()  # of another job
    run_phases("job", phases, beam.Runner(workers=workers), str(tmp_path / "phases"))
    assert json.loads((tmp_path / "counters.json").read_text()) == {"rows": 780}
    assert sorted(path.name for path in (tmp_path / "phases").iterdir()) == ["01.json", "02.json"]


def test_an_error_for_people_in_a_list_of_tasks_keeps_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_phases("job", [Phase("a", refuse, functools.partial(write, tmp_path))], beam.Runner(), str(tmp_path))
    assert str(caught.value) == "c.yaml:3: nothing fits\n  mend it"
