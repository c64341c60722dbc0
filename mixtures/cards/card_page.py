"""HTML pages of cards: self-contained, without scripts, every value escaped."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from infra.media.interface import MODALITIES
from mixtures.cards.croissant import describe_processing, describe_token_counts, format_settings
from mixtures.plan.recipe import UNITS

#: Size of a histogram in SVG units.
WIDTH, HEIGHT = 320, 64

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6672; --line: #d9dee4; --bar: #2f6f8f; --paper: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #98a3ae; --line: #333b44; --bar: #6fb3d2; --paper: #14181c } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2.5rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2.2rem 0 .5rem }
p.lead { color: var(--soft); margin: .2rem 0 0 }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere } td:first-child { min-width: 5rem }
th { color: var(--soft); font-weight: 500 } td.n, th.n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1rem; margin: 1.4rem 0 }
.facts b { display: block; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums }
.facts span { color: var(--soft); font-size: .85rem }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 0 2.5rem }
.scores { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.2rem 2.5rem }
.scores svg { width: 100%; height: 4rem; display: block } rect { fill: var(--bar) }
.scores small { color: var(--soft); font-variant-numeric: tabular-nums }
ol { padding-left: 1.4rem } li { overflow-wrap: anywhere }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="lead">{{ lead }}</p>
<div class="facts">{% for value, name in facts %}<div><b>{{ value }}</b><span>{{ name }}</span></div>{% endfor %}</div>
<p><code>sha256 {{ sha256 }}</code></p>
<div class="pair">
{% for heading, rows in tables %}<section><h2>{{ heading }}</h2>
<table>{% for name, count, share in rows %}<tr><td>{{ name }}</td><td class="n">{{ count }}</td>\
<td class="n">{{ share }}</td></tr>{% else %}<tr><td>none</td></tr>{% endfor %}</table></section>
{% endfor %}</div>
{% if scores %}<h2>Scores of the samples</h2>
<div class="scores">{% for score in scores %}<div><code>{{ score.name }}</code>
<svg viewBox="0 0 {{ width }} {{ height }}" preserveAspectRatio="none" role="img" aria-label="histogram">\
{% for x, y, w, h in score.bars %}<rect x="{{ x }}" y="{{ y }}" width="{{ w }}" height="{{ h }}"/>{% endfor %}</svg>
<small>{{ score.summary }}</small></div>{% endfor %}</div>{% endif %}
{% if steps %}<h2>Filters and settings, in order</h2>
<ol>{% for step in steps %}<li>{{ step }}</li>{% endfor %}</ol>{% endif %}
{% for heading, rows in details %}<h2>{{ heading }}</h2>
<table>{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
{% endfor %}</body>
</html>
"""


@functools.cache  # threads: safe, rendering does not change a template
def _load_template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_PAGE)


def render_page(**values: Any) -> str:
    """Render the page shared by all cards; see `render_shard_page` for its variables."""
    return str(_load_template().render(width=WIDTH, height=HEIGHT, **values))


def render_shard_page(card: Mapping[str, Any]) -> str:
    """Render the HTML page of a shard's card."""
    made_by, ledger, dialogues = card["made_by"], card["ledger"], card["dialogues"]
    not_kept = sum(ledger["dropped"].values()) + ledger["duplicates"] + sum(ledger["failed"].values())
    details = [
        ("Why inputs are not kept", build_share_rows(card["reasons"])),
        ("Captions that are not used", [("of media with several captions", f"{card['unused_captions']:,}")]),
        ("Dialogues", _describe_dialogues("none in this shard" if dialogues is None else dialogues)),
        ("Writer of the run's dialogues", _describe_dialogues(made_by["dialogues"])),
        ("Models", [(name, f"version {m['version']}", m["maker"]) for name, m in sorted(made_by["models"].items())]),
        ("Made from", [(u["unit"], _format_span(u["rows"]), f"{u['kept']:,} kept") for u in made_by["lineage"]]),
        ("Made by", [("run", made_by["name"]), ("seed", made_by["seed"]), ("Reelmill", made_by["reelmill"]),
                *((f"manifest of {stage}", stamp) for stage, stamp in sorted(made_by["manifests"].items()))]),
    ]  # fmt: skip
    return render_page(
        title=card["shard"],
        lead=f"A shard of {card['modality'].replace('_', ' ')} samples; each is KEY.{', KEY.'.join(card['suffixes'])}.",
        facts=build_headline(card, card["tar"]["bytes"]),
        sha256=card["tar"]["sha256"],
        tables=[
            ("Licences", build_share_rows(card["licences"])),
            ("Sources", build_share_rows(card["sources"])),
            ("Kinds of text", build_share_rows(card["kinds"])),
            ("Languages", build_share_rows(card["languages"])),
            (
                f"Outcome of {ledger['inputs']:,} inputs",
                build_share_rows({"kept": ledger["kept"], "not kept": not_kept}),
            ),
        ],
        scores=[_build_score(name, histogram) for name, histogram in sorted(card["scores"].items())],
        steps=describe_processing(made_by),
        details=details,
    )


def render_mixture_page(card: Mapping[str, Any]) -> str:
    """Render the HTML page of a mixture's card."""
    unit = card["unit"]
    constraints = [(constraint["label"], *(f"{name} {100 * constraint['achieved'][name]:.2f} %" for name in UNITS))
                   for constraint in card["constraints"]]  # fmt: skip
    shares = [(modality, *(f"{name} {100 * card['achieved'][name][modality]:.2f} %" for name in UNITS))
              for modality in filter(card["achieved"][unit].__contains__, MODALITIES)]  # fmt: skip
    details = [
        ("Shares of modalities", shares),
        ("Target shares and achieved shares", constraints),
        ("Groups", [(g["name"], f"{g['samples']:,} of {g['available']:,} samples", f"{g['tokens']:,} tokens")
                    for g in card["groups"]]),
        ("Tokens", [(describe_token_counts(card["recipe"]),)]),
        ("Copies of a sample", [(f"copy {int(n) + 1}", f"{count:,}") for n, count in sorted(card["repeats"].items())]),
        ("Made from", [(p["name"], f"seed {p['seed']}", f"members {p['members']}") for p in card["parents"]]),
        ("Warnings", [(warning,) for warning in card["warnings"]]),
    ]  # fmt: skip
    return render_page(
        title=card["mixture"],
        lead=f"A mixture, counted in {unit}. Runs: {len(card['parents'])}, shards of these: {len(card['shards'])}, "
        f"virtual shards: {card['vshards']}, own tars: {len(card['tars'] or ())}; seed {card['seed']}.",
        facts=build_headline(card["totals"], card["totals"]["bytes"]),
        sha256=card["manifest"],
        tables=_build_amount_tables(card, unit),
        scores=[],
        steps=[],
        details=[(heading, rows) for heading, rows in details if rows],
    )


def render_tar_page(card: Mapping[str, Any]) -> str:
    """Render the HTML page of the card of a materialized mixture's tar."""
    return render_page(
        title=card["shard"],
        lead=f"A tar of the mixture {card['mixture']}: samples of several modalities, one after another.",
        facts=build_headline(card["totals"], card["tar"]["bytes"]),
        sha256=card["tar"]["sha256"],
        tables=[
            ("Modalities", _build_amount_rows(card["modalities"], "samples")),
            *_build_amount_tables(card, "samples"),
        ],
        scores=[],
        steps=[],
        details=[("Copied from tars with sha256", [(sha256,) for sha256 in card["copied_from"]])],
    )


def _build_amount_tables(card: Mapping[str, Any], unit: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    names = {"Licences": "licences", "Sources": "sources", "Kinds of text": "kinds", "Languages": "languages"}
    return [(f"{heading}, {unit}", _build_amount_rows(card[field], unit)) for heading, field in names.items()]


def _build_amount_rows(counts: Mapping[str, Mapping[str, float]], unit: str) -> list[tuple[str, str, str]]:
    return build_share_rows({name: amount[unit] for name, amount in counts.items()})


def build_headline(card: Mapping[str, Any], bytes_: int) -> list[tuple[str, str]]:
    """Build the (value, name) pairs in large type at the top of a page."""
    return [
        (f"{card['samples']:,}", "samples"),
        (f"{card['tokens']:,}", "tokens"),
        (f"{card['seconds']:,.1f}", "seconds of video"),
        (f"{bytes_:,}", "bytes"),
    ]


def build_share_rows(counts: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Build (name, count, share) of counts, the most frequent first; "" is "not stated"."""
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        (name or "not stated", f"{count:,}", f"{100 * count / total:.1f} %" if total else "") for name, count in ordered
    ]


def _format_span(span: Sequence[int]) -> str:
    return f"rows {span[0]:,} to {span[1]:,}" if span else "no row"


def _describe_dialogues(dialogues: Any) -> list[tuple[str, str]]:
    if not isinstance(dialogues, Mapping):
        return [(str(dialogues), "")]
    rows = []
    for name, entry in dialogues.items():
        text = format_settings(entry) if isinstance(entry, Mapping) else str(entry)
        rows.append((name.replace("_", " "), text or "none"))
    return rows


def _build_score(name: str, histogram: Mapping[str, Any]) -> dict[str, Any]:
    highest = max(histogram["counts"]) or 1
    step = WIDTH / len(histogram["counts"])
    bars = []
    for i, count in enumerate(histogram["counts"]):
        height = round(HEIGHT * count / highest, 2)
        bars.append((round(i * step, 2), round(HEIGHT - height, 2), round(step - 1, 2), height))
    summary = (
        f"{histogram['count']:,} samples, median {histogram['p50']:.3g}; 90 % from {histogram['p05']:.3g} to "
        f"{histogram['p95']:.3g}, all from {histogram['min']:.3g} to {histogram['max']:.3g}"
    )
    return {"name": name, "bars": bars, "summary": summary}
