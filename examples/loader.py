"""Read a mixture as a trainer does, and print the content of its batches.

    python examples/loader.py MIX [--steps 8] [--batch 4] [--workers 2] [--tokenizer tokenizer.json]

MIX is a folder that `reelmill mix` wrote, or its URI. With a tokenizer (a tokenizer.json of any model) batches become
the tensors that Apollo's model takes; without one they are decoded samples.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from mixtures.loader import Loader
from mixtures.reading.apollo import VisionProcessor, to_apollo

#: Stand-ins for the processors of a video and an image encoder; give `to_apollo` those of your models.
ENCODERS = (
    VisionProcessor(
        SimpleNamespace(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], size=224), video=True
    ),
    VisionProcessor(SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3, size=384)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixture")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--tokenizer")
    options = parser.parse_args()

    loader = Loader(options.mixture, batch=options.batch, decode=True, on_error="skip")
    collate = None
    if options.tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(options.tokenizer)
        collate = functools.partial(to_apollo, processors=ENCODERS, tokenizer=tokenizer, contract=loader.contract)
    print(f"{loader.order.total:,} samples, {len(loader):,} steps of {options.batch}")
    for step, batch in enumerate(loader.batches(workers=options.workers, collate=collate)):
        print(f"step {step}:", *(tensors(batch) if collate else samples(batch)), sep="\n  ")
        if step + 1 == options.steps:
            break
    # Save this beside the model: Loader(...).load_state_dict(state) resumes at the next sample.
    print("state:", json.dumps(loader.state_dict()))
    for modality, row in loader.composition()["modalities"].items():
        print(f"{modality:12} {row['samples']:6,} samples, share {row['share']:.3f}, planned {row['planned']:.3f}")


def samples(batch: list[Any]) -> list[str]:
    return [
        f"{sample.key} {sample.modality:11} {len(sample.clips)} clips, {len(sample.conversations)} turns"
        for sample in batch
    ]


def tensors(batch: dict[str, Any]) -> list[str]:
    shapes = [[tuple(tensor.shape) for tensor in sample] for sample in batch["vision_input"]]
    rows = [f"{kind:6} {shape}" for kind, shape in zip(batch["data_types"], shapes, strict=True)]
    return [*rows, f"input_ids {tuple(batch['input_ids'].shape)}, learnt {int((batch['labels'] >= 0).sum())}"]


if __name__ == "__main__":
    main()
