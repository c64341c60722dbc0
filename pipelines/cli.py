"""The command line. Data goes to stdout, logs and progress to stderr; exit 0 done, 1 problems, 2 wrong usage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.errors import ReelmillError
from infra.terminal import escape_json, protect_stderr, write_error, write_line

#: Exit code after Ctrl-C, as typer gives it.
INTERRUPTED = 130

app = typer.Typer(
    name="reelmill",
    help="Turns raw videos, images and text into audited, re-mixable training data for video-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigPath = Annotated[Path, typer.Argument(help="The config file (YAML).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
RunnerName = Annotated[str, typer.Option("--runner", help="A Beam runner by name.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes on this machine (FnApiRunner).")]
BeamOptions = Annotated[list[str] | None, typer.Option("--beam", help="Another Beam option, as --beam=--name=value.")]
Shard = Annotated[
    str | None,
    typer.Option("--shard", help="i/N, i from 0 to N - 1: do this share of the work and no more.", show_default=False),
]
Finish = Annotated[bool, typer.Option("--finish", help="Check that all shares are done, and write the manifest.")]
Out = Annotated[str | None, typer.Option("--out", help="Folder of the run, instead of the config's.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite a run of another config.")]


def _runner(
    name: str, workers: int, options: list[str] | None = None, shard: str | None = None, finish: bool = False
) -> Any:
    """The runner that the options name, checked before any work."""
    from infra.beam import Runner, check_runner
    from infra.engines.share import parse_share

    share = None if shard is None else parse_share(shard)
    runner = Runner(name, workers, tuple(options or ()), share=share, finish=finish)
    if runner.share is not None and (finish or name != Runner().name):
        other = "--finish" if finish else f"--runner {name}"
        raise typer.BadParameter(f"not together with {other}", param_hint="--shard")
    if (runner.name, runner.options) != (Runner().name, ()):
        check_runner(runner)
    return runner


def _print_json(content: Any) -> None:
    from infra.hashing import canonical_json

    sys.stdout.write(escape_json(canonical_json(content).decode("utf-8")))
    sys.stdout.flush()


#: Panels of `reelmill --help`, in the order of work.
STAGES, MIXTURES, INSPECT, TOOLS = "Stages", "Mixtures", "Inspect", "Tools"


# -- stages -----------------------------------------------------------------------------------------------------


@app.command("run", rich_help_panel=STAGES)
def run_(
    config: ConfigPath,
    out: Out = None,
    replace: Replace = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show every filter with its thresholds and do nothing else.")
    ] = False,
    json: Json = False,
    runner: RunnerName = "FnApiRunner",
    workers: Workers = 1,
    beam: BeamOptions = None,
) -> None:
    """Ingest, measure, decide, annotate and export; resumes by itself."""
    from pipelines import stages
    from pipelines.core import summary

    run = stages.open_for_work(str(config), out=out, replace=replace, runner=_runner(runner, workers, beam), quiet=json)
    if explain:
        explanation = stages.explain_config(run)
        _print_json(explanation) if json else summary.print_explained(explanation)
        return
    stages.run_all(run)
    _print_json(stages.summarize_run(run)) if json else summary.print_run(run)


def _run_stage(name: str, config: Path, json: bool, **options: Any) -> Any:
    """Run one stage, or a share of it, print its summary and return the run."""
    from pipelines import stages
    from pipelines.core import summary

    run = stages.open_for_work(str(config), quiet=json, **options)
    if (share := run.runner.share) is not None:
        tasks = stages.run_share(run, name)
        if json:
            _print_json({"stage": name, "shard": str(share), "tasks": tasks})
        else:
            sys.stdout.write(f"{name}: the {tasks:,} tasks of share {share} are done\n")
        return run
    stage_summary = stages.summarize_stage(name, stages.run_stage(run, name))
    _print_json(stage_summary) if json else summary.print_stage(stage_summary)
    return run


def _stage(name: str, help_: str) -> Callable[..., None]:
    def command(
        config: ConfigPath,
        out: Out = None,
        replace: Replace = False,
        json: Json = False,
        runner: RunnerName = "FnApiRunner",
        workers: Workers = 1,
        beam: BeamOptions = None,
        shard: Shard = None,
        finish: Finish = False,
    ) -> None:
        engine = _runner(runner, workers, beam, shard, finish)
        _run_stage(name, config, json, out=out, replace=replace, runner=engine)

    command.__doc__ = help_
    command.__name__ = name
    return command


def _decide(
    config: ConfigPath,
    out: Out = None,
    replace: Replace = False,
    json: Json = False,
    runner: RunnerName = "FnApiRunner",
    workers: Workers = 1,
    beam: BeamOptions = None,
) -> None:
    """Judge, deduplicate and resample what was measured."""
    _run_stage("decide", config, json, out=out, replace=replace, runner=_runner(runner, workers, beam))


app.command("ingest", rich_help_panel=STAGES)(
    _stage("ingest", "List the sources, cut them into units, hash every medium once.")
)
app.command("measure", rich_help_panel=STAGES)(
    _stage("measure", "Measure what the config asks for and the store lacks.")
)
app.command("decide", rich_help_panel=STAGES)(_decide)


@app.command(rich_help_panel=STAGES)
def annotate(
    config: ConfigPath,
    out: Out = None,
    replace: Replace = False,
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch", help="Folder of OpenAI batch files: requests are written there, completions are read there."
        ),
    ] = None,
    json: Json = False,
    runner: RunnerName = "FnApiRunner",
    workers: Workers = 1,
    beam: BeamOptions = None,
    shard: Shard = None,
    finish: Finish = False,
) -> None:
    """Write dialogues about kept videos, with a served language model or by rules."""
    engine = _runner(runner, workers, beam, shard, finish)
    run = _run_stage("annotate", config, json, out=out, replace=replace, runner=engine, batch=batch)
    if not json and shard is None:
        from pipelines.core import summary

        summary.print_dialogues(run)


app.command("export", rich_help_panel=STAGES)(
    _stage("export", "Write shards, the index of members and cards of the samples kept.")
)


# -- mixtures ---------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=MIXTURES)
def mix(
    from_: Annotated[list[str], typer.Option("--from", help="A finished run's folder; may be repeated.")],
    out: Annotated[str, typer.Option("--out", help="The mixture's folder.", show_default=False)],
    more: Annotated[list[str] | None, typer.Argument(help="Further runs.", show_default=False)] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A YAML file or a preset: apollo (default), shipped, best."),
    ] = None,
    ratio: Annotated[
        str | None, typer.Option("--ratio", help="Shares of the modalities, such as text=0.2,video=0.8.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", help="Unit of the shares: samples, tokens, seconds or bytes.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="Size in units (200k, 1.5M), or max; by default as much as fits.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", help="Maximum number of times a sample may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the draw.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="A tokenizer.json to count text tokens with.")
    ] = None,
    materialize: Annotated[bool, typer.Option("--materialize", help="Write tars, one per virtual shard.")] = False,
    emit: Annotated[
        str | None,
        typer.Option("--emit", help="Also write files for other trainers: energon, llava, or both."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a different mixture in the folder.")] = False,
    json: Json = False,
    runner: RunnerName = "FnApiRunner",
    workers: Workers = 1,
    beam: BeamOptions = None,
) -> None:
    """Plan a mixture of finished runs at any ratio; writes a manifest and copies no media."""
    from pipelines.mix import mix, mix_options, mixture_summary

    mixture_recipe = mix_options.resolve_recipe(
        recipe, ratio, unit=unit, size=size, repeats=repeats, seed=seed, tokenizer=tokenizer
    )
    mixture = mix.run(
        [*from_, *(more or ())], mixture_recipe, out, replace=replace, materialize=materialize,
        formats=mix_options.parse_formats(emit),
        runner=_runner(runner, workers, beam), quiet=json,
    )  # fmt: skip
    _print_json(mixture_summary.build_summary(mixture)) if json else mixture_summary.print_mixture(mixture)


@app.command(rich_help_panel=MIXTURES)
def train(config: ConfigPath, out: Out = None, json: Json = False) -> None:
    """Train a small video-language model over mixtures in Apollo's three stages; resumes by itself (extra: train)."""
    from pipelines.train import train

    summary = train.run(str(config), out=out, quiet=json)
    if summary:  # empty on every process but the first
        _print_json(summary) if json else train.show(summary)


# -- inspect ----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=INSPECT)
def plan(
    config: ConfigPath,
    share: Annotated[
        float, typer.Option("--share", min=0.0001, max=1.0, help="Share of the inputs to measure.")
    ] = 0.01,
    json: Json = False,
    workers: Workers = 1,
) -> None:
    """Measure a share of the inputs and forecast yield, hours, bytes and tokens, with intervals."""
    from pipelines.forecast import plan

    forecast = plan.run(str(config), share=share, workers=workers, quiet=json)
    _print_json(forecast) if json else plan.show(forecast)


@app.command("what-if", rich_help_panel=INSPECT)
def what_if(
    run: Annotated[str, typer.Argument(help="A finished run's folder.", show_default=False)],
    set_: Annotated[list[str], typer.Option("--set", help="filters.NAME.KEY=VALUE; may be repeated.")],
    json: Json = False,
) -> None:
    """Compute what other thresholds would keep, from a run's measurements; nothing is written."""
    from pipelines.forecast import what_if

    answer = what_if.run(run, set_)
    _print_json(answer) if json else what_if.show(answer)


@app.command(rich_help_panel=INSPECT)
def status(
    run: Annotated[str, typer.Argument(help="A run's folder.", show_default=False)],
    json: Json = False,
) -> None:
    """Tell how far the commands at work in a run are, and which units take long."""
    from pipelines.status import status

    answer = status.run(run)
    _print_json(answer) if json else status.show(answer)


@app.command(rich_help_panel=INSPECT)
def audit(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A run, a mixture, or a folder that contains some.", show_default=False)
    ],
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every medium and verify its facts.")] = False,
    html: Annotated[str | None, typer.Option("--html", help="Write an HTML report into this folder.")] = None,
    json: Json = False,
) -> None:
    """Verify every card, index and total against the actual bytes; exit 1 on any mismatch."""
    from pipelines.audit import audit
    from pipelines.report import report

    if html is not None:
        report.check_output(html)
    audits = audit.run(folder, deep=deep, quiet=json)
    _print_json([entry.to_json() for entry in audits]) if json else audit.show(audits)
    if not all(entry.ok for entry in audits):
        if html is not None:
            write_line("reelmill: no report was written, because the audit found problems")
        raise typer.Exit(1)
    if html is not None:
        report.run(folder, html, quiet=json)


@app.command(rich_help_panel=INSPECT)
def diff(
    a: Annotated[str, typer.Argument(help="A run or a mixture.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another of the same kind.", show_default=False)],
    json: Json = False,
) -> None:
    """Compare samples, scores, settings and shares of two runs or mixtures; exit 1 if they differ."""
    from pipelines.diff import diff

    changes = diff.run(a, b)
    _print_json(changes) if json else diff.show(changes)
    if not changes["same"]:
        raise typer.Exit(1)


@app.command(rich_help_panel=INSPECT)
def show(
    what: Annotated[str, typer.Argument(help="What to show: dialogues.", show_default=False)],
    run: Annotated[str, typer.Argument(help="A run's folder.", show_default=False)],
    count: Annotated[int, typer.Option("--count", min=1, help="Number of dialogues, drawn by key.")] = 3,
    kind: Annotated[str | None, typer.Option("--kind", help="Only dialogues of this kind.")] = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="Show rejected dialogues instead.")] = False,
    json: Json = False,
) -> None:
    """Print some of a run's dialogues beside their evidence."""
    from pipelines.tools import show

    if what != "dialogues":
        raise typer.BadParameter(f"there is nothing called {what!r} to show; try dialogues")
    rows = show.run(run, count=count, kind=kind, rejected=rejected)
    _print_json(rows) if json else show.show(rows, run)


# -- tools ------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=TOOLS)
def init(preset: Annotated[str, typer.Argument(help="llama3-image, llama3-video or apollo.")] = "apollo") -> None:
    """Print a commented config to start from."""
    from pipelines.tools.presets import preset_text

    sys.stdout.write(preset_text(preset))


@app.command(rich_help_panel=TOOLS)
def doctor(
    config: Annotated[Path | None, typer.Argument(help="A config whose models are checked too.")] = None,
    json: Json = False,
) -> None:
    """Check what is installed, which engines are in use, what is missing and how to get it."""
    from pipelines.tools import doctor

    findings = doctor.run(None if config is None else str(config))
    _print_json(findings) if json else doctor.show(findings)
    if any(not finding["ok"] and finding["needed"] for finding in findings["findings"]):
        raise typer.Exit(1)


@app.command(rich_help_panel=TOOLS)
def schema(
    table: Annotated[str | None, typer.Argument(help="config, signals, or a table; by default all.")] = None,
    json: Json = False,
) -> None:
    """Print the schema of the config and of each table, with versions."""
    from pipelines.tools import schema

    schemas = schema.run(table)
    _print_json(schemas) if json else schema.show(schemas)


@app.command(rich_help_panel=TOOLS)
def vocab(
    texts: Annotated[
        list[str], typer.Argument(help="High-quality text: .txt, .jsonl or .parquet, or folders.", show_default=False)
    ],
    out: Annotated[str, typer.Option("--out", help="The vocabulary file to write (JSON list).", show_default=False)],
    titles: Annotated[str | None, typer.Option("--titles", help="A file of titles, one per line.")] = None,
    small: Annotated[
        bool, typer.Option("--small", help="For fewer than about 100 million words: the three limits are 5 each.")
    ] = False,
    min_count: Annotated[int | None, typer.Option("--min-count", min=1, help="Minimum count of a word [100].")] = None,
    min_pmi: Annotated[float | None, typer.Option("--min-pmi", help="Minimum PMI of a word pair [30].")] = None,
    min_pair_count: Annotated[
        int | None, typer.Option("--min-pair-count", min=1, help="Minimum count of a word pair [1].")
    ] = None,
    case: Annotated[str, typer.Option("--case", help="lower, or keep; as in measure.ngrams.case.")] = "lower",
    text_column: Annotated[str, typer.Option("--text-column", help="Column of JSONL and Parquet files.")] = "text",
    json: Json = False,
    runner: RunnerName = "FnApiRunner",
    workers: Workers = 1,
    beam: BeamOptions = None,
) -> None:
    """Build an n-gram vocabulary for resampling from high-quality text."""
    from pipelines.tools import vocab

    settings = vocab.build_settings(small, case, min_count, min_pmi, min_pair_count)
    summary = vocab.run(
        texts, out, titles=titles, settings=settings, text_column=text_column,
        runner=_runner(runner, workers, beam), quiet=json,
    )  # fmt: skip
    _print_json(summary) if json else vocab.show(summary)


@app.command(rich_help_panel=TOOLS)
def takedown(
    folders: Annotated[
        list[str], typer.Argument(help="Runs, mixtures, or folders that contain some at any depth.", show_default=False)
    ],
    keys: Annotated[list[str] | None, typer.Option("--key", help="A sample's key; may be repeated.")] = None,
    sources: Annotated[list[str] | None, typer.Option("--source", help="All of this source; may be repeated.")] = None,
    licences: Annotated[
        list[str] | None, typer.Option("--licence", help="All under this licence; may be repeated.")
    ] = None,
    url_lists: Annotated[
        list[str] | None, typer.Option("--url-list", help="A file of URLs or paths of samples, one per line.")
    ] = None,
    with_duplicates: Annotated[
        bool, typer.Option("--with-duplicates", help="Also near-duplicates, and samples with the same bytes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would change; nothing is written.")] = False,
    json: Json = False,
) -> None:
    """Remove samples everywhere: rewrite the shards that contain them, reissue cards, update mixtures."""
    from pipelines.takedown import takedown
    from pipelines.takedown.request import build_request

    request = build_request(keys or (), sources or (), licences or (), url_lists or ())
    removed = takedown.run(folders, request, with_duplicates=with_duplicates, dry_run=dry_run, quiet=json)
    _print_json(removed) if json else takedown.show(removed)


@app.command(rich_help_panel=TOOLS)
def demo(
    out: Annotated[str, typer.Option("--out", help="Folder of the demo's corpus and run.")] = "demo",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the corpus.")] = 1,
    json: Json = False,
    workers: Workers = 2,
) -> None:
    """Generate a small corpus with planted faults, run everything on it, show what each filter caught and missed."""
    from pipelines.demo import demo

    report = demo.run(out, seed=seed, workers=workers, quiet=json)
    _print_json(report) if json else demo.show(report, out)


def main() -> None:
    """Entry point of the console script."""
    # One thread per process, set before numpy loads: results must not depend on cores; workers give the parallelism.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # threads: none is running yet
    protect_stderr()
    try:
        app(standalone_mode=True)
    except ReelmillError as error:
        write_error(error)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            write_line("reelmill: interrupted; finished work is kept, run the same command to resume")
        raise


if __name__ == "__main__":
    main()
