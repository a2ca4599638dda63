"""Measure how much faster vision-language models are with `predict_batch` than in a plain loop.

    python benchmarks/local_vlm.py [CASE...] [--images N] [--rounds N] [--batch N]... [--gpu] [--parts] [--out FILE]

The plain loop ("guide" in the results) runs one image at a time, in float32 on a CPU and float16 on a GPU. It is
compared with `VisionHfTransformers.predict_batch` at the preset's precision and batch size, and at the batch sizes of
`--batch`. Both use the same model, files and number of replies, alternately in one run; medians of the rounds are
compared. Needs `bibwatch[local]`.

Cases: `smolvlm` and `qwen2vl` are the small trained checkpoints of tests/checkpoints, on drawn bibs, in batches of 128,
as no preset covers them. `256m`, `500m` and `2.2b` are models of SmolVLM's published sizes with random weights, on
drawn photos of one tile, with a fixed number of new tokens: their replies are nonsense, their speed is realistic.

`--parts` breaks down the time: preparing the inputs, prefill (up to the first new token), and generating the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from bibwatch import drawing
from bibwatch.registry import Registry
from bibwatch.runtimes.base import FinishReason, Markup
from bibwatch.runtimes.devices import torch_dtype
from bibwatch.runtimes.transformers import VisionHfTransformers
from bibwatch.stages.bib_number import BibNumberOptions
from bibwatch.testing.tiny_vlm import make_tiny_vlm

CHECKPOINTS = Path(__file__).parents[1] / "tests" / "checkpoints"
QUESTION = BibNumberOptions.questions[Markup.MARKDOWN]
NEW_TOKENS = 12
VOCABULARY = 49280

# SmolVLM's parts: SmolLM2 of three sizes, SigLIP of two.
SMALL_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
LARGE_VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}


@dataclass(frozen=True)
class Size:
    """A published size of SmolVLM, with the preset whose settings are measured."""

    preset: str
    vision: dict[str, int]
    scale_factor: int  # patches per side merged into one image token
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int

    @property
    def tile(self) -> int:
        return self.vision["image_size"]


SIZES = {
    "256m": Size("smolvlm-256m", SMALL_VISION, 4, 576, 1536, 30, 9, 3),
    "500m": Size("smolvlm-500m", SMALL_VISION, 4, 960, 2560, 32, 15, 5),
    "2.2b": Size("smol-inline-cpu", LARGE_VISION, 3, 2048, 8192, 24, 32, 32),
}
TRAINED = ("smolvlm", "qwen2vl")


class PlainLoop:
    """A plain loop for SmolVLM."""

    def __init__(self, folder: Path, device: str, new_tokens: int) -> None:
        self.device = device
        self.new_tokens = new_tokens
        self.dtype = torch.float16 if device == "cuda" else torch.float32
        self.processor = transformers.AutoProcessor.from_pretrained(folder)
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=self.dtype).to(device)

    def answer(self, path: Path) -> str:
        """Return the reply for one image."""
        inputs = self.inputs(path).to(self.device, dtype=self.dtype)
        with torch.no_grad():
            ids = self.model.generate(**inputs, max_new_tokens=self.new_tokens)
        reply: str = self.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        return reply

    def inputs(self, path: Path) -> Any:
        image = Image.open(path)
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return self.processor(text=text, images=image, return_tensors="pt")


class QwenPlainLoop(PlainLoop):
    """A plain loop for Qwen2-VL."""

    def inputs(self, path: Path) -> Any:
        from qwen_vl_utils import process_vision_info

        content = [{"type": "image", "image": path.as_uri()}, {"type": "text", "text": QUESTION}]
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        images, videos = process_vision_info(messages)
        return self.processor(text=[text], images=images, videos=videos, padding=True, return_tensors="pt")


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [name for name in TRAINED if (CHECKPOINTS / name / "config.json").is_file()]
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join([*TRAINED, *SIZES])}")
    parser.add_argument("--images", type=int, help="images per round [default: 256 for trained models, else 16]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, action="append", default=[], help="additional batch size to measure")
    parser.add_argument("--gpu", action="store_true", help="use CUDA and the presets for GPUs")
    parser.add_argument("--parts", action="store_true", help="also break down the time")
    parser.add_argument(
        "--out",
        type=Path,
        help="keeps other cases measured on the same machine",
        default=Path(__file__).parent / "results" / "local_vlm.json",
    )
    chosen = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    cases = chosen.cases or [*there, *(name for name in SIZES if chosen.gpu or name != "2.2b")]
    if unknown := set(cases) - {*there, *SIZES}:
        parser.error(f"no such case, or its checkpoint is missing: {', '.join(sorted(unknown))}")
    report: dict[str, Any] = {"machine": machine(gpu=chosen.gpu), "cases": {}}
    if chosen.out.is_file() and (before := json.loads(chosen.out.read_text()))["machine"] == report["machine"]:
        report = before  # keep its other cases
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    for name in cases:
        with tempfile.TemporaryDirectory(prefix="bibwatch-local-vlm-") as place:
            report["cases"][name] = measure(name, Path(place), chosen)
        chosen.out.write_text(json.dumps(report, indent=2) + "\n")


def machine(*, gpu: bool) -> dict[str, Any]:
    """Return the hardware and versions that the figures depend on."""
    named = re.search(r"model name\s*:\s*(\S.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": named[1] if named else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def measure(name: str, place: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Run the plain loop and the runtime on the same files alternately; print and return the figures."""
    device, load = "cuda" if chosen.gpu else "cpu", round(os.getloadavg()[0], 1)
    trained = name in TRAINED
    folder = CHECKPOINTS / name if trained else write_model(SIZES[name], place / "model")
    paths = draw(place, chosen.images or (256 if trained else 16), trained=trained)
    new_tokens = 32 if trained else NEW_TOKENS
    table = {**preset_of(name, gpu=chosen.gpu), "repo_id": str(folder), "device": device, "max_new_tokens": new_tokens}
    options = Registry(presets={name: table}).model_options(name)
    guide = (QwenPlainLoop if name == "qwen2vl" else PlainLoop)(folder, device, new_tokens)
    methods: dict[str, Callable[[], list[str]]] = {"guide": lambda: [guide.answer(path) for path in paths]}
    runtimes = {}
    for size in dict.fromkeys([options.batch_size, *chosen.batch]):
        runtimes[f"batch {size}"] = VisionHfTransformers(options.model_copy(update={"batch_size": size}))
        methods[f"batch {size}"] = lambda runtime=runtimes[f"batch {size}"]: answers(runtime, paths)
    guide.answer(paths[0])
    for runtime in runtimes.values():
        answers(runtime, paths[: runtime.options.batch_size])
    took, memory, replies = by_turns(methods, chosen.rounds, device)
    seconds = {method: statistics.median(each) / len(paths) for method, each in took.items()}
    case: dict[str, Any] = {
        "load_before": load,
        "parameters": sum(weights.numel() for weights in guide.model.parameters()),
        "images": len(paths),
        "rounds": chosen.rounds,
        "new_tokens": None if trained else new_tokens,
        "guide": {"dtype": str(guide.dtype), "seconds_an_image": round(seconds["guide"], 4), **memory["guide"]},
        "runtime": {},
    }
    dtype = str(torch_dtype(options.dtype, device))
    print(f"{name}: guide {case['guide']}")
    for method in runtimes:
        ratios = sorted(guide / own for guide, own in zip(took["guide"], took[method], strict=True))
        case["runtime"][method] = {
            "own_choice": method == f"batch {options.batch_size}",
            "dtype": dtype,
            "seconds_an_image": round(seconds[method], 4),
            "times_as_fast": round(seconds["guide"] / seconds[method], 2),
            "in_the_rounds": [round(ratios[0], 2), round(ratios[-1], 2)],
            "same_answers": sum(map(str.__eq__, replies["guide"], replies[method])),
            **memory[method],
        }
        print(f"{name}: {method} {case['runtime'][method]}", flush=True)
    if chosen.parts:
        case["parts"] = parts(guide, paths, dtype, options.batch_size)
        print(f"{name}: parts {case['parts']}", flush=True)
    for runtime in runtimes.values():
        runtime.close()
    return case


def preset_of(name: str, *, gpu: bool) -> dict[str, Any]:
    """Return the preset whose precision and batch size are measured, with images of one tile."""
    if name in TRAINED:
        return {"kind": "vision_hf_transformers", "batch_size": 128}  # no preset covers such small models
    size = SIZES[name]
    base = size.preset.replace("-cpu", "-gpu") if gpu else size.preset
    return {"base": base, "image_longest_edge": size.tile, "longest_side": size.tile}


def answers(runtime: VisionHfTransformers, paths: Sequence[Path]) -> list[str]:
    """Return the runtime's replies for the images."""
    replies = []
    for prediction in runtime.predict_batch((Image.open(path) for path in paths), QUESTION):
        if prediction.error:
            raise prediction.error
        assert (
            prediction.finish_reason is not FinishReason.LENGTH
            or len(prediction.tokens) == runtime.options.max_new_tokens
        )
        replies.append(prediction.text)
    return replies


def by_turns(
    methods: dict[str, Callable[[], list[str]]], rounds: int, device: str
) -> tuple[dict[str, list[float]], dict[str, dict[str, int]], dict[str, list[str]]]:
    """Run each method once per round; return its times, peak GPU memory and last replies."""
    took: dict[str, list[float]] = {method: [] for method in methods}
    memory: dict[str, dict[str, int]] = {method: {} for method in methods}
    replies = {}
    for _ in range(rounds):
        for method, call in methods.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if device == "cuda" else 0
            start = time.perf_counter()
            replies[method] = call()
            took[method].append(time.perf_counter() - start)
            if device == "cuda":  # all weights are loaded at once; count only what this method adds
                memory[method] = {"gpu_mb_beyond_weights": (torch.cuda.max_memory_allocated() - before) // 1_000_000}
    return took, memory, replies


def parts(guide: PlainLoop, paths: Sequence[Path], dtype: str, batch: int) -> dict[str, dict[str, float]]:
    """Measure the parts of a reply, in seconds per image: in the plain loop and in batches."""
    fast = getattr(torch, dtype.removeprefix("torch."))
    figures = {}
    for method, kind, size in (("guide", guide.dtype, 1), ("batched", fast, batch)):
        model = guide.model.to(kind)
        start = time.perf_counter()
        inputs = [guide.inputs(path) for path in paths[:size]]
        prepared = time.perf_counter() - start
        together = {key: torch.cat([each[key] for each in inputs]) for key in inputs[0]}
        together = {key: value.to(guide.device, kind) if value.is_floating_point() else value.to(guide.device)
                    for key, value in together.items()}  # fmt: skip
        first = seconds_of(model, together, 1)
        figures[method] = {
            "inputs": round(prepared / size, 4),
            "reading": round(first / size, 4),
            "writing": round((seconds_of(model, together, guide.new_tokens) - first) / size, 4),
        }
    return figures


def seconds_of(model: Any, inputs: dict[str, Any], new_tokens: int) -> float:
    """Return how long `new_tokens` take."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(**inputs, min_new_tokens=new_tokens, max_new_tokens=new_tokens)
        times.append(time.perf_counter() - start)
    return min(times)


def draw(place: Path, number: int, *, trained: bool) -> list[Path]:
    """Draw bibs for trained models, photos for the others; return the files."""
    dice = random.Random(0)  # noqa: S311  # not used for secrets
    paths = [place / f"{seed:03}.{'png' if trained else 'jpg'}" for seed in range(number)]
    for seed, path in enumerate(paths):
        bib = "".join(dice.choices("0123456789", k=1 + seed % 3))
        (drawing.bib_closeup(bib, seed=seed) if trained else drawing.photo((bib,), seed=seed)).save(path)
    return paths


def write_model(size: Size, folder: Path) -> Path:
    """Write a SmolVLM of a published size with random weights, in bfloat16 like the published models."""
    small = transformers.AutoProcessor.from_pretrained(make_tiny_vlm(folder / "small"))
    tokenizer = small.tokenizer
    tokenizer.add_tokens(re.findall(r" ?\w+|[^\w\s]+", QUESTION))  # one token per word, as in the real vocabulary
    side = {"longest_edge": size.tile}
    image_processor = transformers.Idefics3ImageProcessor(size=side, max_image_size=side)
    tokens = (size.tile // size.vision["patch_size"] // size.scale_factor) ** 2
    processor = transformers.Idefics3Processor(
        image_processor, tokenizer, image_seq_len=tokens, chat_template=small.chat_template
    )
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = transformers.Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=size.scale_factor,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        vision_config=size.vision,
        text_config={
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": size.hidden_size,
            "intermediate_size": size.intermediate_size,
            "num_hidden_layers": size.num_hidden_layers,
            "num_attention_heads": size.num_attention_heads,
            "num_key_value_heads": size.num_key_value_heads,
            "max_position_embeddings": 8192,
            "pad_token_id": tokenizer.pad_token_id,
            **ends,
        },
    )
    torch.manual_seed(0)
    with torch.device("cuda") if torch.cuda.is_available() else nullcontext():
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config = transformers.GenerationConfig(
        min_new_tokens=NEW_TOKENS, pad_token_id=tokenizer.pad_token_id, **ends
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
