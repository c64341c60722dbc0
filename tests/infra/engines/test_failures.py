"""Errors of workers come back from the text that an engine gives."""

from __future__ import annotations

import pytest

from infra.engines import failures
from infra.errors import ConfigError, ReelmillError, SourceChanged, StageError

#: The text of Beam for a task that raised `error`, shortened.
REPORT = """Pipeline BeamApp_1 failed in state FAILED: java.lang.RuntimeException: Error received from SDK harness for \
instruction 4: Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1512, in apache_beam.runners.common.DoFnRunner.process
  File "/venv/lib/python3.11/site-packages/apache_beam/transforms/core.py", line 2128, in <lambda>
    wrapper = lambda x: [fn(x)]
                         ^^^^^
  File "/code/pipelines/measure/measure.py", line 6, in measure_unit
    raise error
{error}

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1512, in apache_beam.runners.common.DoFnRunner.process
  File "/code/pipelines/measure/measure.py", line 6, in measure_unit
    raise error
{copy} [while running 'measure: do']

\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient.handle(FnApiControlClient.java:180)
"""


def explain(error: str, copy: str = "") -> ReelmillError:
    explained = failures.explain("measure", RuntimeError(REPORT.format(error=error, copy=copy or error)))
    assert isinstance(explained, ReelmillError)
    return explained


@pytest.mark.parametrize("kind", [ConfigError, StageError, SourceChanged])
def test_our_own_error_keeps_place_hint_and_exit_code(kind: type[ReelmillError]) -> None:
    original = kind("a mistake", where="c.yaml:7", hint="mend it\nor not")
    explained = explain(f"infra.errors.{kind.__name__}: {original}", f"infra.errors.{kind.__name__}: a mistake")
    assert type(explained) is kind and str(explained) == str(original)


def test_a_bug_has_its_traceback_once_and_without_frames_of_beam() -> None:
    explained = explain("ValueError: a bug of\n\nours")
    assert explained.what == "measure stopped: ValueError: a bug of ours"
    assert explained.hint == '  File "/code/pipelines/measure/measure.py", line 6, in measure_unit\n    raise error'
    assert type(explained) is StageError


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "java.util.concurrent.TimeoutException: Heartbeat of TaskManager with id 127.0.0.1:1-a timed out.",
            "lost some",
        ),
        ("org.apache.flink.runtime.jobmanager.scheduler.NoResourceAvailableException: Could not", "no free slots"),
        ("java.lang.IllegalStateException: something else", "measure stopped on the engine: java.lang.Ill"),
    ],
)
def test_words_of_the_engine_are_one_line(text: str, what: str) -> None:
    explained = failures.explain("measure", RuntimeError(f"Pipeline a-b failed in state FAILED: {text}\n\tat x.y(Z)"))
    assert what in str(explained) and text in str(explained) and "Pipeline" not in str(explained)
    assert "run the same command again" in str(explained)


def test_an_error_of_this_process_is_itself() -> None:
    original = ConfigError("a mistake", where="c.yaml:7", hint="mend it")
    try:
        try:
            raise original
        except ConfigError:
            raise ConfigError("a mistake [while running 'x']")  # noqa: B904 - as Beam does
    except ConfigError as copy:
        assert failures.explain("job", copy) is original
