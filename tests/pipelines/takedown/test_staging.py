from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import StageError
from pipelines.takedown.staging import Staging, apply, finish, read_journal


def begin(folder: Path) -> Staging:
    (folder / "a").write_text("old")
    work = Staging(str(folder))
    work.put("a", b"new")
    work.put("below/b", b"more")
    return work


def test_no_file_changes_before_the_commit(tmp_path: Path) -> None:
    begin(tmp_path)
    assert read_journal(str(tmp_path)) is None
    assert (tmp_path / "a").read_text() == "old"
    Staging(str(tmp_path))  # the next command begins anew
    assert not (tmp_path / ".takedown").exists()


@pytest.mark.parametrize("moved", [[], ["a"], ["a", "below/b"]])
def test_a_committed_takedown_is_finished_after_any_interruption(tmp_path: Path, moved: list[str]) -> None:
    begin(tmp_path).commit({"more": 1})
    for name in moved:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / ".takedown/files" / name).rename(tmp_path / name)
    journal = read_journal(str(tmp_path))
    assert journal is not None and journal["more"] == 1
    apply(str(tmp_path), journal)
    assert ((tmp_path / "a").read_text(), (tmp_path / "below/b").read_text()) == ("new", "more")
    (tmp_path / "a").write_text("changed by what came after")
    again = read_journal(str(tmp_path))
    assert again is not None
    apply(str(tmp_path), again)  # it knows that all are in place
    finish(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "below"]


def test_a_staged_file_that_is_lost_is_an_error(tmp_path: Path) -> None:
    journal = begin(tmp_path).commit({})
    (tmp_path / ".takedown/files/a").unlink()
    with pytest.raises(StageError, match="one of its files is missing"):
        apply(str(tmp_path), journal)
