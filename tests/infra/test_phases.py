"""Phases of one job: each begins when the one before is done."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import beam
from infra.errors import ConfigError
from infra.phases import Phase, run_phases


def list_names(folder: Path, names: Sequence[str]) -> Sequence[str]:
    """As the tasks of a phase follow from the files of the one before."""
    return [f"{name}{len(list(folder.iterdir()))}" for name in names]


def write(folder: Path, name: str) -> list[str]:
    (folder / name).touch()
    return [name]


def merge(results: Iterable[list[str]]) -> list[str]:
    return sorted(name for names in results for name in names)


def keep(uri: Path, names: list[str]) -> None:
    uri.write_text(" ".join(names))


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
    run_phases("job", phases, beam.Runner())
    made = 0
    for number, count in enumerate(counts):
        note = notes / str(number)
        assert note.exists() is (count > 0), "a phase without tasks has no result"
        if count:
            assert note.read_text().split() == [f"{number}-{task:02d}-{made}" for task in range(count)]
        made += count


def test_counters_are_summed_and_need_no_end(tmp_path: Path) -> None:
    def count(name: str) -> dict[str, int]:
        return {"rows": int(name)}

    seen: list[dict[str, int]] = []
    tasks = functools.partial(list, [str(number) for number in range(40)])
    run_phases("job", [Phase("a", tasks, count), Phase("b", tasks, count, finish=seen.append)], beam.Runner())
    assert seen == [] or seen == [{"rows": 780}]  # a worker has its own copy of the list


def test_an_error_for_people_in_a_list_of_tasks_keeps_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_phases("job", [Phase("a", refuse, functools.partial(write, tmp_path))], beam.Runner())
    assert str(caught.value) == "c.yaml:3: nothing fits\n  mend it"
