"""Croissant 1.1 with the RAI vocabulary: a data set's shards, what its records are, and what was done to them. Pure.

Words of the vocabularies are those of MLCommons (Croissant 1.1, Croissant RAI 1.0). mlcroissant lets an absent name,
url or description pass: `mixtures/schemas/croissant.json` does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
class About:
    """What only a person can say of a data set. date: ISO 8601."""

    name: str
    description: str
    url: str
    creator: str
    date: str
    version: str


def croissant(about: About, cards: Sequence[Mapping[str, Any]], ledger: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON-LD of a data set from its shards' cards and its ledger (its entry `all`).

    One FileObject a tar; for each series of tars a FileSet and a RecordSet a suffix; the index as RecordSet `samples`.
    """
    files, records = _members(sum(card["samples"] for card in cards))
    distribution, record_sets = [files], [records]
    for series, mine in sorted(by_series(cards).items()):
        tars = [_tar(card) for card in mine]
        distribution += tars
        held = [{"@id": tar["@id"]} for tar in tars]
        for suffix in mine[0]["suffixes"]:
            distribution.append(_files(series, suffix, held))
            record_sets.append(_records(series, suffix, sum(card["samples"] for card in mine)))
    licences = sorted({name or "not stated" for card in cards for name in card["licences"]}) or ["not stated"]
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
        "license": licences,
        "keywords": ["WebDataset", "video-language models", *sorted({card["modality"] for card in cards})],
        "distribution": distribution,
        "recordSet": record_sets,
        **_rai(cards, ledger),
    }


def by_series(cards: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
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
        "description": f"{card['samples']:,} samples, {card['tokens']:,} tokens; its card lies beside it",
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


def _rai(cards: Sequence[Mapping[str, Any]], ledger: Mapping[str, Any]) -> dict[str, Any]:
    made = cards[0]["made_by"] if cards else {"filters": [], "models": {}, "dialogues": "none", "duplicates": {}}
    dropped, failed = sum(ledger["dropped"].values()), sum(ledger["failed"].values())
    return {
        "rai:dataCollection": f"{ledger['inputs']:,} inputs were read from the sources named below; {ledger['kept']:,} "
        f"were kept, {dropped:,} dropped by a filter, {ledger['duplicates']:,} were duplicates, {failed:,} failed.",
        "rai:dataCollectionType": ["Secondary Data Analysis", "Software Collection"],
        "rai:dataCollectionRawData": "Media, captions and documents as their sources had them: "
        + _shares(total(cards, "sources"))
        + ".",
        "rai:dataPreprocessingProtocol": protocol(made),
        "rai:dataAnnotationProtocol": _annotation(made.get("dialogues")),
        "rai:machineAnnotationTools": _tools(made),
        "rai:personalSensitiveInformation": [
            "No step looks for personal data: faces, names and voices are as the sources had them, nothing is blurred.",
            "A sample can be removed later from shards, dialogues and mixtures by key, source, licence or address.",
        ],
        "rai:dataBiases": _biases(cards, made),
        "rai:dataLimitations": _limits(made),
        "rai:dataReleaseMaintenancePlan": [
            "Every tar is named with its sha256 here and on its card; `reelmill audit` holds both against the bytes."
        ],
    }


def protocol(made: Mapping[str, Any]) -> list[str]:
    """One sentence a filter, in the order in which they were asked, with every threshold."""
    said = [f"Filter {f['name']}: {settings(f['settings']) or 'nothing to set'}" for f in made["filters"]]
    for modality, one in sorted(made.get("duplicates", {}).items()):
        if isinstance(one, Mapping):
            said.append(f"Duplicates of {modality}: {settings(one) or 'exact'}")
    if made.get("resample"):
        said.append(f"Resampling by n-grams: {settings(made['resample'])}")
    return said or ["None: everything that could be read was kept."]


def settings(value: Mapping[str, Any], prefix: str = "") -> str:
    """Settings as `name = value`, nested names dotted; those that are not set are left out."""
    found = []
    for name, one in value.items():
        if isinstance(one, Mapping):
            found += [settings(one, f"{prefix}{name}.")]
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
        f"{name}, version {one['version']}, fingerprint {one['maker']}" for name, one in sorted(made["models"].items())
    ]
    writer = made.get("dialogues")
    if isinstance(writer, Mapping):
        found.append(f"dialogues: {writer.get('model')}, revision {writer.get('revision')}")
        if writer.get("captioner"):
            found.append(f"captions as evidence: {writer['captioner']}")
    return found or ["none"]


def _biases(cards: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> list[str]:
    languages = total(cards, "languages")
    known = {name: count for name, count in languages.items() if name}
    said = [f"By source: {_shares(total(cards, 'sources'))}."]
    said.append(f"By language of the text: {_shares(known)}." if known else "The language of the text was not asked.")
    asked = {f["name"] for f in made["filters"]}
    if asked & {"alignment", "video_alignment"}:
        said.append(
            "Samples were kept by an image-text model's score: what that model knows little of is kept less often."
        )
    if made.get("resample"):
        said.append(
            "Resampling keeps frequent n-grams less often than they occur: shares are not those of the sources."
        )
    return said


def _limits(made: Mapping[str, Any]) -> list[str]:
    said = [
        "Token counts of text are an estimate of four characters a token unless a mixture counted them.",
        "Licences are what the sources state; nobody checked them.",
    ]
    writer = made.get("dialogues")
    if isinstance(writer, Mapping) or str(writer).startswith("rules"):
        said.append("Dialogues rest on captions, recognised text and measurements, and repeat their mistakes.")
    return said


def total(cards: Sequence[Mapping[str, Any]], field: str) -> dict[str, int]:
    """Counts of several cards added up, the most frequent first."""
    found: dict[str, int] = {}
    for card in cards:
        for name, count in card[field].items():
            found[name] = found.get(name, 0) + count
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _shares(counts: Mapping[str, int], most: int = 20) -> str:
    whole = sum(counts.values())
    named = [f"{name or 'not stated'} {count / whole:.1%}" for name, count in list(counts.items())[:most]]
    if len(counts) > most:
        named.append(f"{len(counts) - most} more")
    return ", ".join(named) or "none"
