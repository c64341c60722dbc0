"""Clean text, which all other annotators and filters read. The raw text stays in the samples."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from annotators import text as words
from annotators.interface import Annotator, Column
from infra.config import Strict
from infra.media.interface import MODALITIES, DecodedMedia

# Element names of HTML. Anything else in angle brackets ("5 < 6", "<unk>", "List<String>") is text.
_TAGS = (
    "a|abbr|article|b|big|blockquote|body|br|button|center|cite|code|dd|div|dl|dt|em|figcaption|figure|font|footer|"
    "form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|label|li|link|main|mark|meta|nav|ol|p|pre|q|s|section|"
    "small|span|strike|strong|sub|sup|table|tbody|td|th|thead|title|tr|tt|u|ul|wbr"
)
_HIDDEN = re.compile(r"<!--|<(?:script|style)\b[^<>]*>", re.I)
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*|/)?>", re.I)
_INLINE = re.compile(
    r"</?(?:a|abbr|b|big|cite|em|font|i|ins|mark|q|s|small|span|strike|strong|sub|sup|tt|u|wbr)\b", re.I
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

# C0 and C1 controls but for the line break, soft hyphen, zero-width and bidirectional marks, byte order marks,
# interlinear marks, the invisible "tag" letters, and noncharacters.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f]"
)
# Joiners shape emoji, Indic and Arabic text: they stay between two such characters and are removed elsewhere.
_SHAPED = "[\u0590-\u200b\u200e-\U0010ffff]"
_JOINER = re.compile(f"(?<!{_SHAPED})[\u200c\u200d]|[\u200c\u200d](?!{_SHAPED})")
_BLANKS = re.compile(r"(?<=\S)[^\S\n]+")
_SENTENCE = re.compile(r"(^|[.!?][\"'”’)]*\s+)(\W*)(\w)")
_WORD = re.compile(r"[^\W_]+")
_PLAIN = re.compile(r"[\n -%'-;=?-~]*")  # ASCII without controls, "&", "<" and ">": only spaces to repair
_ACRONYM_LIST = "NASA ESA USA UK EU UN NATO FIFA UEFA NBA UNESCO UNICEF USB UFO AI IMAX ATV SUV UTV IKEA"
_ACRONYMS = frozenset(_ACRONYM_LIST.split())


class CleanSettings(Strict):
    """caption_chars, document_chars: longer texts are cut there, to bound the cost of a single text (ours).
    repair_shouting: captions with at least this share of letters in words in capitals become sentence case
    (Llama 3, arXiv 2407.21783, names fixing capitalisation without a rule; the share is ours)."""

    caption_chars: int = Field(default=10_000, gt=0)
    document_chars: int = Field(default=1_000_000, gt=0)
    repair_shouting: float = Field(default=0.8, gt=0.0, le=1.0)


class Clean(Annotator):
    """Clean text.

    Everywhere: UTF-8 repaired (ftfy), NFC, no control or invisible characters, runs of blanks become one blank.
    Captions (all modalities but text): one line, HTML entities and tags resolved, shouting repaired.
    Documents (modality text): lines and indentation kept, at most one empty line in a row, mark-up unchanged.
    Depends on the raw text and on whether the row's modality is text.
    """

    name = "clean"
    VERSION = 2
    keyed_by = "text"
    input = "text"
    modalities = frozenset(MODALITIES)
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(pa.string(), 'clean caption or document, never null; "" where there is no text'),
    }
    settings: CleanSettings

    def measure(self, chunk: pa.Table, media: Sequence[DecodedMedia | None]) -> pa.Table:
        settings = self.settings
        results = []
        captions = []
        for row, (modality, raw) in enumerate(
            zip(chunk["modality"].to_pylist(), words.strings(chunk["text"]), strict=True)
        ):
            if modality == "text":
                results.append(document(raw, settings.document_chars))
            else:
                results.append(caption(raw, settings.caption_chars))
                captions.append(row)
        loud = words.shouting([results[row] for row in captions]) >= settings.repair_shouting
        for row in (row for row, is_loud in zip(captions, loud, strict=True) if is_loud):
            results[row] = sentence_case(results[row])
        return self.table_of({"text": results})


def caption(raw: str, limit: int = 10_000) -> str:
    """Clean a caption: one line of at most `limit` characters; capitals stay."""
    text = raw[: 4 * limit]
    # Web captions are often escaped twice, and a repair may leave a tag that a character of no width had broken; the
    # bound keeps hostile nesting cheap.
    for _ in range(4):
        before = text
        if not _PLAIN.fullmatch(text):
            text = _repair(_remove_markup(text))
        if text == before or not ("<" in text or "&" in text):
            break
    return " ".join(text.split())[:limit].rstrip()


def document(raw: str, limit: int = 1_000_000) -> str:
    """Clean a document: lines with their indentation, together at most `limit` characters."""
    text = raw[:limit]
    if not _PLAIN.fullmatch(text):
        text = _repair(text)
    lines = (_BLANKS.sub(" ", line).rstrip() for line in text.replace("\t", "    ").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n").rstrip()[:limit].rstrip()


def sentence_case(text: str) -> str:
    """Write `text` with one capital per sentence. Words with digits, words without a vowel and a few well-known
    acronyms stay; other acronyms and names become lower case, as they cannot be distinguished from words."""

    def lower_word(match: re.Match[str]) -> str:
        word = match[0]
        keep = word in _ACRONYMS or (len(word) > 1 and not set(word) & set("AEIOUYaeiouy") and word.isascii())
        return word if keep or any(c.isdigit() for c in word) else word.lower()

    text = re.sub(r"\bi\b", "I", _WORD.sub(lower_word, text))
    return unicodedata.normalize("NFC", _SENTENCE.sub(lambda m: m[1] + m[2] + m[3].upper(), text))


def _remove_markup(text: str) -> str:
    text = _ENTITY.sub(lambda m: html.unescape(m[0]), text)
    return _TAG.sub(lambda m: "" if _INLINE.match(m[0]) else " ", _remove_hidden(text)) if "<" in text else text


def _remove_hidden(text: str) -> str:
    """Remove comments, scripts and style sheets. Unclosed ones stay; a missing end tag is searched once per kind, so
    that the time is linear in the text."""
    kept, position, unclosed = [], 0, set()
    for opening in _HIDDEN.finditer(text):
        end = "-->" if opening[0] == "<!--" else f"</{opening[0][1:6].lower()}"
        if opening.start() < position or end in unclosed:
            continue
        closing = re.compile(end, re.I).search(text, opening.end())
        close = text.find(">", closing.start()) if closing else -1
        if close < 0:
            unclosed.add(end)
            continue
        kept.append(text[position : opening.start()])
        position = close + 1
    return " ".join([*kept, text[position:]])


def _repair(text: str) -> str:
    import ftfy

    # UTF-16 joins surrogate pairs, which JSON escapes produce, and replaces lone surrogates.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n\n")
    config = ftfy.TextFixerConfig(unescape_html=False, uncurl_quotes=False, fix_character_width=False, explain=False)
    text = ftfy.fix_text(unicodedata.normalize("NFC", text), config)
    text = _JOINER.sub("", _INVISIBLE.sub("", text.replace("\x0b", " ").replace("\x0c", " ")))
    return unicodedata.normalize("NFC", text)
