import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from annotators.dialogues import checks, dialogue, evidence, kinds
from annotators.dialogues.evidence import KINDS, EvidenceItem, EvidenceSheet
from annotators.dialogues.kinds import IMAGE_TEXT, SHARES, load_kind, supports
from tests.annotators.dialogues.sheets import sheet

ALL = [*SHARES, IMAGE_TEXT]
FOLDER = Path(kinds.__file__).parent
_LINE = re.compile(r"\[([a-z])(\d+)\] ([a-z ]+)(?:, ([\d.]+)(?:-([\d.]+))? s)?: (.+)")


#: What structured-output engines of servers honour: guidance and xgrammar both, says their documentation.
KEYWORDS = {"type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "minLength",
            "maxLength", "pattern"}  # fmt: skip


def example(name: str) -> tuple[EvidenceSheet, str]:
    """The example of a prompt, read back."""
    item_lines, answer = load_kind(name).prompt.split("Example of items:\n")[1].split("Example of an answer:\n")
    items = []
    letters = {letter: item_kind for item_kind, letter in KINDS.items()}
    for line in item_lines.strip().splitlines():
        match = _LINE.fullmatch(line)
        assert match is not None, line
        letter, number, called, start, end, text = match.groups()
        first = None if start is None else float(start)
        last = first if end is None else float(end)
        items.append(EvidenceItem(letter + number, letters[letter], first, last, text))
        assert called == evidence._PROMPT_NAMES[letters[letter]]
    facts = next((item.text for item in items if item.kind == "facts"), "")
    length = re.search(r"([\d.]+) seconds", facts)
    return EvidenceSheet(tuple(items), float(length[1]) if length else None), answer.strip()


def test_there_is_a_prompt_and_a_schema_for_each_kind_and_nothing_else() -> None:
    assert list(kinds.load_kinds()) == list(SHARES)
    files = {path.name for path in FOLDER.iterdir() if path.suffix in (".md", ".json")}
    assert files == {"rules.md", *(f"{n}.md" for n in ALL), *(f"{n}.schema.json" for n in ALL)}


def test_shares_are_apollos() -> None:
    assert sum(SHARES.values()) == pytest.approx(99.9)


@pytest.mark.parametrize("name", ALL)
def test_a_prompt_begins_with_what_all_share(name: str) -> None:
    of_kind, conversation = load_kind(name).prompt, load_kind("conversation").prompt
    if name != IMAGE_TEXT:
        shared = (
            len(of_kind)
            - len(of_kind.lstrip())
            + next((i for i, (a, b) in enumerate(zip(of_kind, conversation, strict=False)) if a != b), len(of_kind))
        )
        assert shared > 1_500
    assert "{medium}" not in of_kind
    assert evidence.OPEN in of_kind
    assert evidence.CLOSE in of_kind


@pytest.mark.parametrize("name", ALL)
def test_a_schema_bounds_everything_and_uses_no_keyword_that_engines_leave_out(name: str) -> None:
    loaded = load_kind(name)
    Draft202012Validator.check_schema(loaded.schema)
    turns = loaded.schema["properties"]["turns"]
    assert (turns["minItems"], turns["maxItems"]) == (loaded.least, loaded.most)
    assert 1 <= loaded.least <= loaded.most
    assert list(turns["items"]["properties"])[:3] == ["evidence", "question", "answer"]  # the order of writing
    used: set[str] = set()

    def walk(schema_node: dict[str, Any]) -> None:
        used.update(schema_node)
        if schema_node["type"] == "object":
            assert schema_node["additionalProperties"] is False
            assert set(schema_node["required"]) == set(schema_node["properties"])
            for inner in schema_node["properties"].values():
                walk(inner)
        elif schema_node["type"] == "array":
            assert {"minItems", "maxItems"} <= schema_node.keys()
            walk(schema_node["items"])
        elif schema_node["type"] == "string":
            assert "pattern" in schema_node or {"minLength", "maxLength"} <= schema_node.keys()

    walk(dict(loaded.schema))
    assert used <= KEYWORDS


@pytest.mark.parametrize("name", ALL)
def test_the_example_in_a_prompt_passes_every_check(name: str) -> None:
    shown, answer = example(name)
    assert supports(name, shown)
    read = dialogue.parse_dialogue(answer, "stop", load_kind(name))
    assert not isinstance(read, str), read
    loaded = checks.check_dialogue(read, shown, load_kind(name), checks.CheckSettings())
    assert loaded.passed, loaded


def test_hashes_are_those_of_what_is_sent() -> None:
    for name in ALL:
        loaded = load_kind(name)
        assert loaded.prompt_hash != loaded.schema_hash
        assert len(loaded.prompt_hash) == 32
    assert len({load_kind(name).prompt_hash for name in ALL}) == len(ALL)
    turned = json.loads(json.dumps(load_kind("conversation").schema, sort_keys=True))
    assert kinds.fingerprint(json.dumps(turned)) != load_kind("conversation").schema_hash


# What a sheet supports

LONG = "A man in a red jacket skis down a steep slope and jumps over a ramp."


def test_an_empty_sheet_supports_no_kind() -> None:
    measured = sheet(
        ("facts", "The video is 4 seconds long."),
        ("motion", "There is much motion."),
        ("shot", "Shot 1 of 2.", 0, 2),
        ("shot", "Shot 2 of 2.", 2, 4),
    )
    for name in ALL:
        assert not supports(name, sheet())
        assert not supports(name, measured)
    with pytest.raises(ValueError, match="no kind"):
        supports("poetry", sheet())


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([("caption", LONG)], {"conversation", "captioning", "reasoning"}),
        ([("caption", "A brown dog sleeps there quietly.")], {"conversation", "captioning"}),
        ([("caption", "A dog.")], set()),
        ([("caption", "犬が公園を走っている")], {"conversation", "captioning", "reasoning"}),
        ([("transcript", "Now add flour, sugar and butter.")], {"conversation"}),
        ([("ocr", "EXIT")], {"text_recognition", IMAGE_TEXT}),
        ([("ocr", "| .")], set()),
        (
            [("ocr", "EXIT", 1.0, 1.0), ("ocr", "SALE", 3.0, 3.0)],
            {"temporal_perception", "text_recognition", IMAGE_TEXT},
        ),
        ([("dense", "A dog.", 0.0, 2.0), ("dense", "A cat.", 2.0, 4.0)], {"temporal_perception"}),
        ([("dense", "A dog.", 0.0, 2.0), ("dense", "A cat.", 0.0, 4.0)], set()),
    ],
)
def test_what_is_supported(items: Any, expected: set[str]) -> None:
    assert {name for name in ALL if supports(name, sheet(*items))} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A first-person view of somebody cutting carrots on a board.", True),
        ("A first person view of somebody cutting carrots on a board.", True),
        ("POV: cutting carrots with a sharp knife on a board.", True),
        ("The camera wearer cuts carrots with a sharp knife.", True),
        ("#C C cuts carrots with a sharp knife on the board.", True),
        ("Skiing downhill, filmed with a helmet-mounted camera.", True),
        ("The first person in the row wears a large hat.", True),  # a known look-alike; see below
        ("A person cuts carrots with a sharp knife on a board.", False),
        ("A man points at a camera and wears a black helmet.", False),
        ("This is not a first-person view of somebody cutting carrots.", False),
        ("A man explains his point of view on carrots.", False),
    ],
)
def test_egocentric_needs_a_view_that_the_captions_name(text: str, expected: bool) -> None:
    assert supports("egocentric", sheet(("caption", text))) == expected


def test_egocentric_when_the_source_says_so() -> None:
    fact = "It is filmed from the first-person view of the person who wears the camera."
    assert supports("egocentric", sheet(("caption", "Somebody cuts carrots with a knife."), ("facts", fact)))
    assert not supports("egocentric", sheet(("facts", fact)))
