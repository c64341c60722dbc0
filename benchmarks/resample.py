"""Time the resampling of captions: from an Arrow string column to the keep column, on one core.

    python -m benchmarks.resample [--captions 100000] [--entries 500000] [--plain 2000] [--seed 0]

How the inputs are made. Words are 2 to 4 random syllables; 200,000 of them, 3 % with an accented letter, drawn with
probability 1 / (rank + 2.7) (Zipf-Mandelbrot). The vocabulary has the proportions of MetaCLIP's: half single words, the
most frequent ones; 30 % pairs; the other 20 % three to five words; longer entries are words drawn in a row by the same
law. Captions have 7 to 13 words, 10 on average: with probability 0.35 a longer entry is put next, drawn by 1 / (rank +
10), else one word. A caption with fewer than 10 matches is drawn again at the same length, so each one has at least 10
and walks deep into the entries happen all the time. A third of the captions begins with a capital, most end in a full
stop, and commas follow 5 % of the words. T is found from a tail share of 6 %.

What is timed: CPU time of matching in chunks of 256 rows (as the pipeline does), document frequencies, T, P(keep) and
the keyed draws; the median of three rounds. Building the matcher is printed apart. The plain loop is `entry in text`
over all entries for each of --plain captions, on strings that are pad_words beforehand; its matches must be the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotators.ngrams import Matcher
from filters import resample
from infra.vocabulary import SEPARATE, pad_words

CHUNK = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--entries", type=int, default=500_000)
    parser.add_argument("--plain", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    words = make_words(rng, arguments.entries * 2 // 5)
    entries = make_entries(rng, words, arguments.entries)
    started = time.process_time()
    matcher = Matcher(entries, "lower")
    build_s = time.process_time() - started
    captions = make_captions(rng, words, entries, matcher, arguments.captions)
    column = pa.array(captions)
    keys = [f"{i:026d}" for i in range(len(captions))]

    rounds = [run(matcher, column, keys) for _ in range(3)]
    seconds = statistics.median(r[0] for r in rounds)
    ids = rounds[0][1]
    lengths = ids.value_lengths().to_numpy()

    plain_ids, plain_s = plain(entries, captions[: arguments.plain])
    figures = {
        "captions_per_s_core": round(len(captions) / seconds),
        "vs_plain_loop": round(plain_s / len(plain_ids) / (seconds / len(captions)), 1),
        "equal_to_plain": plain_ids == ids[: arguments.plain].to_pylist(),
        "plain_captions": len(plain_ids),
        "captions": len(captions),
        "entries": len(entries),
        "words_per_caption": round(
            np.mean([len(pad_words(c, "lower").translate(_NO_SIGNS).split()) for c in captions]), 2
        ),
        "matches_per_caption": round(float(lengths.mean()), 2),
        "fewest_matches": int(lengths.min()),
        "words_per_entry": [int(n) for n in np.bincount([e.count(" ") + 1 for e in entries])[1:]],
        "kept": round(float(rounds[0][2].mean()), 4),
        "stages_us_per_caption": {k: round(v / len(captions) * 1e6, 2) for k, v in rounds[0][3].items()},
        "build_s": round(build_s, 2),
    }
    if not figures["equal_to_plain"]:
        raise SystemExit("the matches differ from those of the plain loop")
    print(json.dumps(figures))


_NO_SIGNS = str.maketrans("", "", SEPARATE)


def run(
    matcher: Matcher, column: pa.Array, keys: list[str]
) -> tuple[float, pa.ListArray, NDArray[np.bool_], dict[str, float]]:
    """CPU seconds, n-gram ids, keep, seconds by stage."""
    times = [time.process_time()]
    chunks = [matcher.match(column.slice(start, CHUNK)) for start in range(0, len(column), CHUNK)]
    times.append(time.process_time())
    ids = pa.chunked_array(chunks)
    table = resample.count_frequencies(ids, matcher.size)
    t = resample.find_tail_threshold(table.counts, 0.06)
    times.append(time.process_time())
    probability = resample.compute_keep_probability(ids, table, t)
    times.append(time.process_time())
    keep, _ = resample.draw_kept(keys, probability, seed=1)
    pa.array(keep)
    times.append(time.process_time())
    stages = dict(zip(["match", "count", "probability", "draw"], np.diff(times).tolist(), strict=True))
    return times[-1] - times[0], ids.combine_chunks(), keep, stages


def plain(entries: list[str], captions: list[str]) -> tuple[list[list[int]], float]:
    needles = [pad_words(entry, "lower") for entry in entries]
    texts = [pad_words(caption, "lower") for caption in captions]
    started = time.process_time()
    matches = [[i for i, needle in enumerate(needles) if needle in text] for text in texts]
    return matches, time.process_time() - started


def make_entries(rng: np.random.Generator, words: list[str], count: int) -> list[str]:
    single = min(count // 2, len(words) * 9 // 10)
    entries = dict.fromkeys(words[:single])
    shares = {2: 0.6, 3: 0.2, 4: 0.12, 5: 0.08}
    remaining = count - single
    for length, share in shares.items():
        count_wanted = len(entries) + (round(remaining * share) if length < 5 else count - len(entries))
        while len(entries) < count_wanted:
            drawn = zipf(rng, len(words), 2.7, (count_wanted - len(entries), length))
            entries.update(dict.fromkeys(" ".join(words[i] for i in row) for row in drawn.tolist()))
    entries_made = list(entries)
    rng.shuffle(entries_made)
    return entries_made


def make_words(rng: np.random.Generator, count: int) -> list[str]:
    syllables = [
        a + b
        for a in ["b", "br", "ch", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v"]
        for b in "aeiou"
    ]
    words: dict[str, None] = {}
    while len(words) < count:
        word = "".join(syllables[i] for i in rng.integers(len(syllables), size=rng.integers(2, 5)))
        words[word.replace("e", "é", 1) if rng.random() < 0.03 else word] = None
    return list(words)


def zipf(rng: np.random.Generator, ranks: int, shift: float, shape: int | tuple[int, ...]) -> NDArray[np.int64]:
    running = np.cumsum(1.0 / (np.arange(ranks) + shift))
    return np.searchsorted(running, rng.random(shape) * running[-1])


def make_captions(
    rng: np.random.Generator, words: list[str], entries: list[str], matcher: Matcher, count: int
) -> list[str]:
    longer = [entry.split() for entry in entries if " " in entry]
    lengths = rng.integers(7, 14, size=count)
    captions = [""] * count
    missing = np.arange(count)
    while len(missing):
        # A caption takes at most one draw of each kind per word.
        of_phrases = zipf(rng, len(longer), 10, (len(missing), 13)).tolist()
        of_words = zipf(rng, len(words), 2.7, (len(missing), 13)).tolist()
        chance = rng.random((len(missing), 13, 2)).tolist()
        for row, phrase_ranks, word_ranks, luck in zip(missing.tolist(), of_phrases, of_words, chance, strict=True):
            text: list[str] = []
            for phrase, word, (kind, comma) in zip(phrase_ranks, word_ranks, luck, strict=True):
                text += longer[phrase] if kind < 0.35 else [words[word]]
                text[-1] += "," if comma < 0.05 else ""
            line = " ".join(text[: lengths[row]])
            captions[row] = (line.capitalize() if luck[0][1] > 0.67 else line) + ("." if luck[1][1] > 0.3 else "")
        few = matcher.match(pa.array([captions[row] for row in missing])).value_lengths().to_numpy() < 10
        missing = missing[few]
    return captions


if __name__ == "__main__":
    main()
