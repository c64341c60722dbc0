"""Croissant 1.1 with the RAI vocabulary: shards, records and processing of a data set. Pure.

Vocabularies: MLCommons Croissant 1.1 and Croissant RAI 1.0. mlcroissant accepts a missing name or description;
`mixtures/cards/schemas/croissant.json` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixtures.shards.media_types import get_media_type

CONFORMS = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")

_CR = ("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty",
       "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
       "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
       "separator", "source", "subField", "transform")  # fmt: skip

CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
    **{name: f"cr:{name}" for name in _CR},
}

#: Columns of the members index that describe a sample: (name, data type, meaning).
COLUMNS = (
    ("key", "sc:Text", "key of the sample"),
    ("shard", "sc:Text", "tar that holds it, without suffix"),
    ("modality", "sc:Text", "video, image, multi_image or text"),
    ("source", "sc:Text", "source that it is from"),
    ("licence", "sc:Text", "licence as its source states it"),
    ("kind", "sc:Text", "what the text is: caption, document, or a kind of conversation"),
    ("language", "sc:Text", "language of the text, where it was asked for"),
    ("tokens", "sc:Integer", "tokens of text and media"),
    ("seconds", "sc:Float", "duration of a video, else 0"),
    ("bytes", "sc:Integer", "of all its members"),
)


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a data set that only its publisher knows. date: ISO 8601; None: not stated."""

    name: str
    description: str
    url: str | None = None
    creator: str | None = None
    date: str | None = None

    def describe_publication(self) -> dict[str, Any]:
        """Return the properties url, creator and datePublished, without those that are not stated."""
        creator = None if self.creator is None else {"@type": "sc:Organization", "name": self.creator}
        properties = {"url": self.url, "creator": creator, "datePublished": self.date}
        return {name: fact for name, fact in properties.items() if fact is not None}


@dataclass(frozen=True)
class History:
    """How the samples of one run were made. made_by: as on its shards' cards; has_dialogues: whether these shards
    contain dialogues that its writer wrote and that were accepted."""

    made_by: Mapping[str, Any]
    has_dialogues: bool

    @classmethod
    def of_cards(cls, cards: Sequence[Mapping[str, Any]]) -> History:
        """The history of a run from cards of its shards, at least one."""
        return cls(cards[0]["made_by"], any((card.get("dialogues") or {}).get("accepted") for card in cards))


def build_croissant(
    about: DatasetInfo, cards: Sequence[Mapping[str, Any]], ledger: Mapping[str, Any]
) -> dict[str, Any]:
    """Build the JSON-LD of a data set from its shards' cards and the entry `all` of its ledger.

    One FileObject per tar; per series of tars and suffix a FileSet and a RecordSet; the index as RecordSet `samples`.
    """
    files, records = _build_members(sum(card["samples"] for card in cards))
    distribution, record_sets = [files], [records]
    for series, series_cards in sorted(group_by_series(cards).items()):
        tars = [_build_file_object(card) for card in series_cards]
        distribution += tars
        tar_ids = [{"@id": tar["@id"]} for tar in tars]
        for suffix in series_cards[0]["suffixes"]:
            distribution.append(_build_file_set(series, suffix, tar_ids))
            record_sets.append(_build_records(series, suffix, sum(card["samples"] for card in series_cards)))
    licences = sorted({name or "not stated" for card in cards for name in card["licences"]}) or ["not stated"]
    modalities = sorted({card["modality"] for card in cards})
    histories = [History.of_cards(cards)] if cards else []
    sources, languages = sum_counts(cards, "sources"), sum_counts(cards, "languages")
    rai = _build_rai(describe_ledger(ledger), histories, sources, languages, describe_token_counts({}))
    return _build_dataset(about, licences, modalities, distribution, record_sets, rai)


def describe_ledger(ledger: Mapping[str, Any]) -> str:
    """Describe the outcomes of all inputs, with take-downs and faults of the environment apart."""
    dropped, failed = dict(ledger["dropped"]), dict(ledger["failed"])
    removed, environment = dropped.pop("takedown", 0), failed.pop("environment", 0)
    outcomes = [
        f"{ledger['kept']:,} were kept",
        f"{sum(dropped.values()):,} dropped by filters or resampling",
        f"{ledger['duplicates']:,} were duplicates",
        f"{sum(failed.values()):,} failed",
    ]
    if environment:
        outcomes.append(f"{environment:,} could not be read or measured by a fault of the machine or the storage")
    if removed:
        outcomes.append(f"{removed:,} were taken down")
    text = f"{ledger['inputs']:,} inputs were read; {', '.join(outcomes)}."
    ignored = ledger.get("ignored", 0)
    return f"{text} {ignored:,} further files, members or rows were no input." if ignored else text


def build_mixture_croissant(
    about: DatasetInfo,
    card: Mapping[str, Any],
    tars: Sequence[Mapping[str, Any]],
    histories: Sequence[History],
) -> dict[str, Any]:
    """Build the JSON-LD of a materialized mixture from its and its tars' cards; histories: of its parents.

    One FileObject per tar, and KEY.json of every sample as FileSet and RecordSet: other suffixes differ by modality.
    """
    files = [_build_file_object(tar) for tar in tars]
    files.append(_build_file_set("mixture", "json", [{"@id": tar["@id"]} for tar in files]))
    sources, languages = ({name: amount["samples"] for name, amount in card[field].items()}
                          for field in ("sources", "languages"))  # fmt: skip
    collection = (
        f"{card['totals']['samples']:,} samples were taken from {len(card['parents'])} runs by a recipe counted in "
        f"{card['unit']}, seed {card['seed']}."
    )
    modalities = sorted(card["achieved"]["samples"])
    records = [_build_records("mixture", "json", card["totals"]["samples"])]
    licences = sorted(name or "not stated" for name in card["licences"]) or ["not stated"]
    rai = _build_rai(collection, histories, sources, languages, describe_token_counts(card["recipe"]))
    return _build_dataset(about, licences, modalities, files, records, rai)


def describe_token_counts(recipe: Mapping[str, Any]) -> str:
    """Describe how a mixture's text tokens were counted: estimated, or by the recipe's tokenizer."""
    tokenizer = recipe.get("tokenizer")
    if tokenizer is None:
        return "Token counts of text are an estimate of four characters a token."
    return f"Token counts of text were counted with the tokenizer of sha256 {tokenizer['sha256']}."


def _build_dataset(
    about: DatasetInfo,
    licences: Sequence[str],
    modalities: Sequence[str],
    distribution: Sequence[Mapping[str, Any]],
    record_sets: Sequence[Mapping[str, Any]],
    rai: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS),
        "name": about.name,
        "description": about.description,
        **about.describe_publication(),
        "license": list(licences),
        "keywords": ["WebDataset", "video-language models", *modalities],
        "distribution": list(distribution),
        "recordSet": list(record_sets),
        **rai,
    }


def group_by_series(cards: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Group cards by the name of their series: modality and suffixes. Tars of one series have the same columns."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for card in cards:
        groups.setdefault(f"{card['modality']}_{'_'.join(card['suffixes']).replace('.', '_')}", []).append(card)
    return groups


def _build_file_object(card: Mapping[str, Any]) -> dict[str, Any]:
    path = f"shards/{card['shard']}.tar"
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": f"{card['shard']}.tar",
        "description": f"{card['samples']:,} samples; its card lies beside it",
        "contentUrl": path,
        "contentSize": f"{card['tar']['bytes']} B",
        "encodingFormat": "application/x-tar",
        "sha256": card["tar"]["sha256"],
    }


def _build_file_set(series: str, suffix: str, tars: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{series}/{suffix}",
        "name": f"{series}/{suffix}",
        "description": f"members KEY.{suffix} of the tars of {series}",
        "containedIn": list(tars),
        "encodingFormat": get_media_type(suffix),
        "includes": f"*.{suffix}",
    }


def _build_members(count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build FileSet and RecordSet of the members index, which describes every sample without opening a tar."""
    files = {
        "@type": "cr:FileSet",
        "@id": "members",
        "name": "members",
        "description": "index of all samples: which tar holds each, where in it, and what it is",
        "encodingFormat": "application/x-parquet",
        "includes": "members/*.parquet",
    }
    fields = [
        _build_field("samples", name, kind, meaning, {"fileSet": {"@id": "members"}, "extract": {"column": name}})
        for name, kind, meaning in COLUMNS
    ]
    return files, _build_record_set("samples", f"{count:,} samples: what each is and which tar holds it", fields)


def _build_records(series: str, suffix: str, count: int) -> dict[str, Any]:
    """Build the RecordSet of one member of each sample: key and whole content. Readers extract fields of JSON by path
    only from files on disk, not from members of a tar."""
    name, within = f"{series}.{suffix}", {"fileSet": {"@id": f"{series}/{suffix}"}}
    key = {**within, "extract": {"fileProperty": "filename"}, "transform": {"regex": "^([^.]+)[.].*$"}}
    content = {**within, "extract": {"fileProperty": "content"}}
    kind = "sc:Text" if suffix in ("json", "txt") else _get_media_class(suffix)
    fields = [
        _build_field(name, "key", "sc:Text", "key of the sample", key),
        _build_field(name, "content", kind, f"content of KEY.{suffix}", content),
    ]
    return _build_record_set(name, f"{count:,} samples: KEY.{suffix} of each", fields)


def _get_media_class(suffix: str) -> str:
    kind = get_media_type(suffix).split("/")[0]
    return {"image": "sc:ImageObject", "video": "sc:VideoObject"}.get(kind, "sc:Text")


def _build_record_set(name: str, description: str, fields: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "key": {"@id": f"{name}/key"},
        "field": list(fields),
    }


def _build_field(record_set: str, name: str, kind: str, meaning: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": f"{record_set}/{name}",
        "description": meaning,
        "dataType": kind,
        "source": dict(source),
    }


# -- responsible AI ---------------------------------------------------------------------------------------------


def _build_rai(
    collection: str,
    histories: Sequence[History],
    sources: Mapping[str, int],
    languages: Mapping[str, int],
    tokens: str,
) -> dict[str, Any]:
    """Build the RAI fields. sources, languages: samples by category; tokens: how text tokens were counted."""
    return {
        "rai:dataCollection": collection,
        "rai:dataCollectionType": ["Secondary Data Analysis", "Software Collection"],
        "rai:dataCollectionRawData": (
            f"Media and texts of these sources, with their shares of the samples: {_format_shares(sources)}."
        ),
        "rai:dataPreprocessingProtocol": _collect_lines(histories, _describe_steps) or ["Not stated."],
        "rai:dataAnnotationProtocol": " ".join(_collect_lines(histories, _describe_annotation)) or "Not stated.",
        "rai:machineAnnotationTools": _collect_lines(histories, _list_tools) or ["not stated"],
        "rai:personalSensitiveInformation": [
            "No step of Reelmill's own looks for personal data: none searches for faces, names or voices, none blurs.",
            "A sample can be removed later from shards, dialogues and mixtures by key, source, licence or address.",
        ],
        "rai:dataBiases": _list_biases(sources, languages, histories),
        "rai:dataLimitations": _list_limitations(histories, tokens),
        "rai:dataReleaseMaintenancePlan": [
            "Every tar is named with its sha256 here and on its card; `reelmill audit` holds both against the bytes."
        ],
    }


def _collect_lines(histories: Sequence[History], describe: Callable[[History], list[str]]) -> list[str]:
    """Collect the distinct lines that describe each run; with several runs each line begins with the run's name."""
    several = len(histories) > 1
    lines = [f"{run.made_by.get('name')}: {line}" if several else line for run in histories for line in describe(run)]
    return list(dict.fromkeys(lines))


def _describe_steps(history: History) -> list[str]:
    return describe_processing(history.made_by)


def describe_processing(made_by: Mapping[str, Any]) -> list[str]:
    """Describe each filter with every threshold, in configured order; then duplicates and resampling."""
    lines = [
        f"Filter {f['name']}: {format_settings(f['settings']) or 'nothing to set'}" for f in made_by.get("filters", ())
    ]
    for modality, settings in sorted(made_by.get("duplicates", {}).items()):
        if isinstance(settings, Mapping):
            lines.append(f"Duplicates of {modality}: {format_settings(settings) or 'exact'}")
    if made_by.get("resample"):
        lines.append(f"Resampling by n-grams: {format_settings(made_by['resample'])}")
    return lines or ["No filter, no search for duplicates and no resampling."]


def format_settings(settings: Mapping[str, Any], prefix: str = "") -> str:
    """Format settings as `name = value; …`, nested names dotted, without those that are not set."""
    entries = []
    for name, setting in settings.items():
        if isinstance(setting, Mapping):
            entries.append(format_settings(setting, f"{prefix}{name}."))
        elif setting is not None:
            text = ", ".join(map(str, setting)) if isinstance(setting, list | tuple) else setting
            entries.append(f"{prefix}{name} = {text}")
    return "; ".join(filter(None, entries))


def _describe_annotation(history: History) -> list[str]:
    writer = history.made_by.get("dialogues")
    if not history.has_dialogues:
        is_asked = isinstance(writer, Mapping) or str(writer).startswith("rules")
        why = "a writer was configured, but no dialogue of it was accepted" if is_asked else writer
        return [f"Dialogues: {why}."]
    if not isinstance(writer, Mapping):
        return [f"Dialogues: {writer}."]
    if "model" not in writer:
        lines = [f"Dialogues: {writer.get('generator')}."]
    else:
        lines = [
            f"Dialogues were written by {writer['model']} (revision {writer.get('revision')}) from evidence "
            "about each sample, without seeing pixels; each turn cites its evidence and was checked."
        ]
    steps = [f"{name} by {step['model']}, prompt {step['prompt']}" for name, step in writer.get("steps", {}).items()]
    return [*lines, f"Further steps: {'; '.join(steps)}."] if steps else lines


def _list_tools(history: History) -> list[str]:
    made_by = history.made_by
    tools = [
        f"{name}, version {model['version']}, fingerprint {model['maker']}"
        for name, model in sorted(made_by.get("models", {}).items())
    ]
    writer = made_by.get("dialogues")
    if isinstance(writer, Mapping) and history.has_dialogues:
        if "model" in writer:
            tools.append(f"dialogues: {writer['model']}, revision {writer.get('revision')}")
        if writer.get("captioner"):
            tools.append(f"captions as evidence: {writer['captioner']}")
    return tools or ["none"]


def _list_biases(sources: Mapping[str, int], languages: Mapping[str, int], histories: Sequence[History]) -> list[str]:
    detected = {name: count for name, count in languages.items() if name}
    lines = [f"By source: {_format_shares(sources)}."]
    lines.append(
        f"By language of the text: {_format_shares(detected)}." if detected else "No language of the text was recorded."
    )
    filters = {f["name"] for history in histories for f in history.made_by.get("filters", ())}
    if filters & {"alignment", "video_alignment"}:
        lines.append(
            "A filter drops by an image-text model's score: what that model knows little of is kept less often."
        )
    if any(history.made_by.get("resample") for history in histories):
        lines.append(
            "Resampling keeps frequent n-grams less often than they occur: shares are not those of the sources."
        )
    return lines


def _list_limitations(histories: Sequence[History], tokens: str) -> list[str]:
    lines = [tokens, "Licences are what the sources, or the config for them, state; no step verifies them."]
    if any(history.has_dialogues for history in histories):
        lines.append("Dialogues rest on captions, recognised text and measurements, and repeat their mistakes.")
    return lines


def sum_counts(cards: Sequence[Mapping[str, Any]], field: str) -> dict[str, int]:
    """Sum the counts in a field of several cards, the most frequent first."""
    totals: dict[str, int] = {}
    for card in cards:
        for name, count in card[field].items():
            totals[name] = totals.get(name, 0) + count
    return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))


def _format_shares(counts: Mapping[str, int], most: int = 20) -> str:
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shares = [f"{name or 'not stated'} {count / total:.1%}" for name, count in ordered[:most]]
    if len(counts) > most:
        shares.append(f"{len(counts) - most} more")
    return ", ".join(shares) or "none"
