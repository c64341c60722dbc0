"""Croissant 1.1 with the RAI vocabulary: a data set's shards, what its records are, and what was done to them. Pure.

Words of the vocabularies are those of MLCommons (Croissant 1.1, Croissant RAI 1.0). mlcroissant lets an absent name,
url or description pass: `mixtures/cards/schemas/croissant.json` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

#: Media types of the suffixes that shards have.
FORMATS = {
    "json": "application/json", "txt": "text/plain", "jpg": "image/jpeg", "png": "image/png", "gif": "image/gif",
    "webp": "image/webp", "bmp": "image/bmp", "tif": "image/tiff", "ppm": "image/x-portable-pixmap",
    "avif": "image/avif", "mp4": "video/mp4", "mkv": "video/x-matroska", "webm": "video/webm", "mov": "video/quicktime",
    "avi": "video/x-msvideo", "mpeg": "video/mpeg", "ts": "video/mp2t",
}  # fmt: skip

#: Columns of the members index that say what a sample is: (name, data type, what it is).
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
    """What only a person can say of a data set. date: ISO 8601."""

    name: str
    description: str
    url: str
    creator: str
    date: str
    version: str


def build_croissant(
    about: DatasetInfo, cards: Sequence[Mapping[str, Any]], ledger: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON-LD of a data set from its shards' cards and its ledger (its entry `all`).

    One FileObject a tar; for each series of tars a FileSet and a RecordSet a suffix; the index as RecordSet `samples`.
    """
    files, records = _members(sum(card["samples"] for card in cards))
    distribution, record_sets = [files], [records]
    for series, mine in sorted(group_by_series(cards).items()):
        tars = [_tar(card) for card in mine]
        distribution += tars
        held = [{"@id": tar["@id"]} for tar in tars]
        for suffix in mine[0]["suffixes"]:
            distribution.append(_files(series, suffix, held))
            record_sets.append(_records(series, suffix, sum(card["samples"] for card in mine)))
    licences = sorted({name or "not stated" for card in cards for name in card["licences"]}) or ["not stated"]
    modalities = sorted({card["modality"] for card in cards})
    dropped, failed = sum(ledger["dropped"].values()), sum(ledger["failed"].values())
    made = [cards[0]["made_by"]] if cards else []
    said = (
        f"{ledger['inputs']:,} inputs were read; {ledger['kept']:,} were kept, {dropped:,} dropped by a filter, "
        f"{ledger['duplicates']:,} were duplicates, {failed:,} failed."
    )
    rai = _rai(said, made, sum_counts(cards, "sources"), sum_counts(cards, "languages"))
    return _dataset(about, licences, modalities, distribution, record_sets, rai)


def build_mixture_croissant(
    about: DatasetInfo, card: Mapping[str, Any], tars: Sequence[Mapping[str, Any]], made: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The JSON-LD of a mixture that has tars, from its card and theirs; made: made_by of its parents' cards.

    One FileObject a tar, and KEY.json of every sample as FileSet and RecordSet: other suffixes differ by modality.
    """
    files = [_tar(one) for one in tars]
    files.append(_files("mixture", "json", [{"@id": tar["@id"]} for tar in files]))
    sources, languages = ({name: amount["samples"] for name, amount in card[field].items()}
                          for field in ("sources", "languages"))  # fmt: skip
    said = (
        f"{card['totals']['samples']:,} samples were taken from {len(card['parents'])} runs by a recipe counted in "
        f"{card['unit']}, seed {card['seed']}."
    )
    modalities = sorted(card["achieved"]["samples"])
    records = [_records("mixture", "json", card["totals"]["samples"])]
    licences = sorted(name or "not stated" for name in card["licences"]) or ["not stated"]
    return _dataset(about, licences, modalities, files, records, _rai(said, made, sources, languages))


def _dataset(
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
        "description": about.description or f"{about.name}: training data for video-language models.",
        "url": about.url,
        "creator": {"@type": "sc:Organization", "name": about.creator},
        "datePublished": about.date,
        "version": about.version,
        "license": list(licences),
        "keywords": ["WebDataset", "video-language models", *modalities],
        "distribution": list(distribution),
        "recordSet": list(record_sets),
        **rai,
    }


def group_by_series(cards: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Cards by the name of their series: modality and suffixes. Tars of one series have the same columns."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for card in cards:
        found.setdefault(f"{card['modality']}_{'_'.join(card['suffixes']).replace('.', '_')}", []).append(card)
    return found


def _tar(card: Mapping[str, Any]) -> dict[str, Any]:
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


def _files(series: str, suffix: str, tars: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    last = suffix.rsplit(".", 1)[-1]
    return {
        "@type": "cr:FileSet",
        "@id": f"{series}/{suffix}",
        "name": f"{series}/{suffix}",
        "description": f"members KEY.{suffix} of the tars of {series}",
        "containedIn": list(tars),
        "encodingFormat": FORMATS.get(last, "application/octet-stream"),
        "includes": f"*.{suffix}",
    }


def _members(count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The index as files, and its rows as records: what every sample is, without opening a tar."""
    files = {
        "@type": "cr:FileSet",
        "@id": "members",
        "name": "members",
        "description": "index of all samples: which tar holds each, where in it, and what it is",
        "encodingFormat": "application/x-parquet",
        "includes": "members/*.parquet",
    }
    fields = [
        _field("samples", name, kind, meaning, {"fileSet": {"@id": "members"}, "extract": {"column": name}})
        for name, kind, meaning in COLUMNS
    ]
    return files, _record_set("samples", f"{count:,} samples: what each is and which tar holds it", fields)


def _records(series: str, suffix: str, count: int) -> dict[str, Any]:
    """Key and content of one member of each sample. The content is given as it is: readers that take fields out of a
    JSON file by path do so for files on disk only, not for members of a tar."""
    name, within = f"{series}.{suffix}", {"fileSet": {"@id": f"{series}/{suffix}"}}
    key = {**within, "extract": {"fileProperty": "filename"}, "transform": {"regex": "^([^.]+)[.].*$"}}
    content = {**within, "extract": {"fileProperty": "content"}}
    kind = "sc:Text" if suffix in ("json", "txt") else _object(suffix)
    fields = [
        _field(name, "key", "sc:Text", "key of the sample", key),
        _field(name, "content", kind, f"content of KEY.{suffix}", content),
    ]
    return _record_set(name, f"{count:,} samples: KEY.{suffix} of each", fields)


def _object(suffix: str) -> str:
    kind = FORMATS.get(suffix.rsplit(".", 1)[-1], "").split("/")[0]
    return {"image": "sc:ImageObject", "video": "sc:VideoObject"}.get(kind, "sc:Text")


def _record_set(name: str, description: str, fields: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "key": {"@id": f"{name}/key"},
        "field": list(fields),
    }


def _field(of: str, name: str, kind: str, meaning: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{of}/{name}",
        "name": f"{of}/{name}",
        "description": meaning,
        "dataType": kind,
        "source": dict(source),
    }


# -- responsible AI ---------------------------------------------------------------------------------------------


def _rai(
    collected: str, made: Sequence[Mapping[str, Any]], sources: Mapping[str, int], languages: Mapping[str, int]
) -> dict[str, Any]:
    """made: made_by of each run that there is; sources, languages: samples by value."""
    return {
        "rai:dataCollection": collected,
        "rai:dataCollectionType": ["Secondary Data Analysis", "Software Collection"],
        "rai:dataCollectionRawData": f"Media, captions and documents as their sources had them: {_shares(sources)}.",
        "rai:dataPreprocessingProtocol": _each(made, describe_processing) or ["Nothing was kept."],
        "rai:dataAnnotationProtocol": " ".join(_each(made, lambda one: [_annotation(one.get("dialogues"))])) or "None.",
        "rai:machineAnnotationTools": _each(made, _tools) or ["none"],
        "rai:personalSensitiveInformation": [
            "No step looks for personal data: faces, names and voices are as the sources had them, nothing is blurred.",
            "A sample can be removed later from shards, dialogues and mixtures by key, source, licence or address.",
        ],
        "rai:dataBiases": _biases(sources, languages, made),
        "rai:dataLimitations": _limits(made),
        "rai:dataReleaseMaintenancePlan": [
            "Every tar is named with its sha256 here and on its card; `reelmill audit` holds both against the bytes."
        ],
    }


def _each(made: Sequence[Mapping[str, Any]], said: Callable[[Mapping[str, Any]], list[str]]) -> list[str]:
    """What each run says; the name of the run before it where there are several."""
    several = len(made) > 1
    lines = [f"{one.get('name')}: {line}" if several else line for one in made for line in said(one)]
    return list(dict.fromkeys(lines))


def describe_processing(made: Mapping[str, Any]) -> list[str]:
    """One sentence a filter, in the order in which they were asked, with every threshold."""
    said = [
        f"Filter {f['name']}: {format_settings(f['settings']) or 'nothing to set'}" for f in made.get("filters", ())
    ]
    for modality, one in sorted(made.get("duplicates", {}).items()):
        if isinstance(one, Mapping):
            said.append(f"Duplicates of {modality}: {format_settings(one) or 'exact'}")
    if made.get("resample"):
        said.append(f"Resampling by n-grams: {format_settings(made['resample'])}")
    return said or ["None: everything that could be read was kept."]


def format_settings(value: Mapping[str, Any], prefix: str = "") -> str:
    """Settings as `name = value`, nested names dotted; those that are not set are left out."""
    found = []
    for name, one in value.items():
        if isinstance(one, Mapping):
            found += [format_settings(one, f"{prefix}{name}.")]
        elif one is not None:
            said = ", ".join(map(str, one)) if isinstance(one, list | tuple) else one
            found.append(f"{prefix}{name} = {said}")
    return "; ".join(part for part in found if part)


def _annotation(writer: Any) -> str:
    if isinstance(writer, Mapping):
        return (
            f"Dialogues were written by {writer.get('model')} (revision {writer.get('revision')}) from evidence "
            "about each sample, without seeing pixels; each turn cites its evidence and was checked."
        )
    return f"Dialogues: {writer}."


def _tools(made: Mapping[str, Any]) -> list[str]:
    found = [
        f"{name}, version {one['version']}, fingerprint {one['maker']}"
        for name, one in sorted(made.get("models", {}).items())
    ]
    writer = made.get("dialogues")
    if isinstance(writer, Mapping):
        found.append(f"dialogues: {writer.get('model')}, revision {writer.get('revision')}")
        if writer.get("captioner"):
            found.append(f"captions as evidence: {writer['captioner']}")
    return found or ["none"]


def _biases(sources: Mapping[str, int], languages: Mapping[str, int], made: Sequence[Mapping[str, Any]]) -> list[str]:
    known = {name: count for name, count in languages.items() if name}
    said = [f"By source: {_shares(sources)}."]
    said.append(f"By language of the text: {_shares(known)}." if known else "The language of the text was not asked.")
    asked = {f["name"] for one in made for f in one.get("filters", ())}
    if asked & {"alignment", "video_alignment"}:
        said.append(
            "Samples were kept by an image-text model's score: what that model knows little of is kept less often."
        )
    if any(one.get("resample") for one in made):
        said.append(
            "Resampling keeps frequent n-grams less often than they occur: shares are not those of the sources."
        )
    return said


def _limits(made: Sequence[Mapping[str, Any]]) -> list[str]:
    said = [
        "Token counts of text are an estimate of four characters a token unless a mixture counted them.",
        "Licences are what the sources state; nobody checked them.",
    ]
    writers = [one.get("dialogues") for one in made]
    if any(isinstance(writer, Mapping) or str(writer).startswith("rules") for writer in writers):
        said.append("Dialogues rest on captions, recognised text and measurements, and repeat their mistakes.")
    return said


def sum_counts(cards: Sequence[Mapping[str, Any]], field: str) -> dict[str, int]:
    """Counts of several cards added up, the most frequent first."""
    found: dict[str, int] = {}
    for card in cards:
        for name, count in card[field].items():
            found[name] = found.get(name, 0) + count
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _shares(counts: Mapping[str, int], most: int = 20) -> str:
    whole = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{name or 'not stated'} {count / whole:.1%}" for name, count in ordered[:most]]
    if len(counts) > most:
        named.append(f"{len(counts) - most} more")
    return ", ".join(named) or "none"
