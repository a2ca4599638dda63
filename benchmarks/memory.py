"""Measure the memory of a process that runs Qwen2-VL-2B within the limits of its presets.

    python benchmarks/memory.py [--batch N]... [--out FILE]

The model has the published sizes, precision and image processor, but random weights: its output is nonsense, its
memory use is realistic. It reads photos of the size the presets pass on, one at a time and in the batch sizes of
`qwen-inline-cpu` and `qwen-inline-gpu`. Each size runs in its own process, which reports its peak memory, and what
Python and torch held before the model was loaded.
Needs `bibwatch[local]`, a CPU that computes in bfloat16, 5 GB of disk and 10 minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers

from bibwatch import drawing
from bibwatch.registry import Registry
from bibwatch.runtimes.base import Markup
from bibwatch.runtimes.transformers import VisionHfTransformers
from bibwatch.stages.bib_number import BibNumberOptions

CHECKPOINT = Path(__file__).parents[1] / "tests" / "checkpoints" / "qwen2vl"
PRESETS = ("qwen-inline-cpu", "qwen-inline-gpu")
NEW_TOKENS = 4


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, action="append", help="batch size [default: 1 and those of the presets]")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    chosen = parser.parse_args()
    report = []
    # Peak memory is per process: run each task in a new one.
    processes = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with processes, tempfile.TemporaryDirectory(prefix="bibwatch-memory-") as place:
        processes.submit(write_model, Path(place)).result()
        for batch in chosen.batch or (1, *(Registry().model_options(preset).batch_size for preset in PRESETS)):
            report.append(processes.submit(measure, Path(place), batch).result())
            print(json.dumps(report[-1]), flush=True)
    chosen.out.write_text(json.dumps({"presets": PRESETS, "batches": report}, indent=2) + "\n")


def write_model(folder: Path) -> None:
    """Write a Qwen2-VL with the published 2B sizes (config.json on the hub) and random weights, in bfloat16."""
    processor = transformers.AutoProcessor.from_pretrained(CHECKPOINT)
    processor.image_processor = transformers.Qwen2VLImageProcessor()
    small = transformers.AutoConfig.from_pretrained(CHECKPOINT)
    config = transformers.Qwen2VLConfig(
        vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
        text_config={
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "pad_token_id": processor.tokenizer.pad_token_id,
            "bos_token_id": processor.tokenizer.bos_token_id,
            "eos_token_id": processor.tokenizer.eos_token_id,
        },
        tie_word_embeddings=True,
        **{name: getattr(small, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")},
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def measure(folder: Path, batch: int) -> dict[str, Any]:
    """Read one batch of photos; return the memory used, in GB (10^9 bytes)."""
    changes = {"repo_id": str(folder), "max_new_tokens": NEW_TOKENS, "batch_size": batch}
    registry = Registry(presets={"measured": {"base": PRESETS[0], **changes}})
    runtime = VisionHfTransformers(registry.model_options("measured"))
    side = runtime.options.longest_side
    photos = [drawing.photo(("1024",), seed=seed, size=(side, side * 2 // 3)) for seed in range(batch)]
    before = peak()
    with runtime:
        model = runtime.loaded.model
        dtype, weights = str(model.dtype), sum(weight.nbytes for weight in model.parameters())
        answers = list(runtime.predict_batch(photos, BibNumberOptions.questions[Markup.MARKDOWN]))
    assert not any(answer.error for answer in answers)
    figures = {"weights_gb": weights, "most_gb": peak(), "before_gb": before}
    return {"batch": batch, "dtype": dtype, **{name: round(value / 1e9, 2) for name, value in figures.items()}}


def peak() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
