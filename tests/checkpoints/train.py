"""Trains a tiny vision-language model that reads drawn bibs, from scratch, or measures one that is there.

    python tests/checkpoints/train.py smolvlm|qwen2vl [--out FOLDER] [--steps N] [--drawings N]
    python tests/checkpoints/train.py --measure FOLDER [--number 1000]

Needs `bibwatch[local]`. The same seed draws the same pictures and asks the same questions.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from families import CLOSING, FAMILIES, NONE, OPENING, PATCH, Family, Grid
from lessons import CORPUS, LESSONS, LONGEST, QUESTION, draw, fresh, lengths, some_question
from PIL import Image
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bibwatch.interpreters.bib_json import BibJson, BibJsonOptions
from bibwatch.runtimes.base import Prediction
from bibwatch.runtimes.transformers import VisionHfTransformers, VisionHfTransformersOptions

SEED = 7
_BATCH = 64
_RATE, _WARM_UP = 1.5e-3, 100
_LEARNT = 0.9  # of the last batches answered exactly: then the next lesson begins
_EVERY = 100  # steps between two lines of the log
_IGNORED = -100


@dataclass
class Pictures:
    """Drawings as a processor gives them, of one grid of patches, by the number of digits."""

    pixels: list[torch.Tensor]  # bytes
    bibs: list[list[str]]


class Replies:
    """Writes prompts and replies as tokens, one row a picture."""

    def __init__(self, family: Family) -> None:
        self._family = family
        ids = family.tokenizer.convert_tokens_to_ids
        (self._opening,), (self._closing,), (self._none,) = (
            family.tokenizer.encode(text) for text in (OPENING, CLOSING, NONE)
        )
        self._digits, self._end = ids(list("0123456789")), family.tokenizer.eos_token_id

    def prompt(self, question: str, grid: Grid) -> torch.Tensor:
        """Return a question about one picture as tokens, ready for the reply to begin."""
        height, width = (PATCH * patches for patches in grid)
        part = [{"type": "image", "image": Image.new("RGB", (width, height))}, {"type": "text", "text": question}]
        inputs = self._family.processor.apply_chat_template(
            [{"role": "user", "content": part}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        return inputs["input_ids"][0]

    def batch(self, prompt: torch.Tensor, bibs: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the model is given, replies included, and what it should say from the prompt's last token on."""
        replies = [torch.tensor(self._reply(bib)) for bib in bibs]
        wanted = torch.nn.utils.rnn.pad_sequence(replies, batch_first=True, padding_value=_IGNORED)
        said = wanted[:, :-1].where(wanted[:, :-1] != _IGNORED, self._family.tokenizer.pad_token_id)
        return torch.cat([prompt.expand(len(bibs), -1), said], dim=1), wanted

    def _reply(self, bib: str) -> list[int]:
        if not bib:
            return [self._none, self._end]
        return [self._opening, *(self._digits[int(digit)] for digit in bib), self._closing, self._end]


class Columns:
    """A second teacher, for the vision tower alone: read the digits off the columns of patches, in order (CTC).

    With it the tower need not wait until the text model knows where to look. It is not part of what is saved.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self.head = torch.nn.Linear(family.vision_width, 11)  # a blank, and the digits
        self._seen = torch.empty(0)
        family.watch().register_forward_hook(self._look)

    def _look(self, module: Any, arguments: Any, output: torch.Tensor) -> None:
        del module, arguments
        self._seen = output

    def loss(self, bibs: list[str], grid: Grid) -> torch.Tensor:
        scores = self.head(self._family.columns(self._seen.float(), grid)).log_softmax(-1).transpose(0, 1)
        digits = torch.tensor([int(digit) + 1 for bib in bibs for digit in bib])
        return functional.ctc_loss(
            scores,
            digits,
            torch.full((len(bibs),), scores.shape[0]),
            torch.tensor([len(bib) for bib in bibs]),
            zero_infinity=True,
        )


class Training:
    """One run: pictures, model, optimiser, and the lesson it has come to."""

    def __init__(self, family: Family, steps: int, drawings: int, log: Path) -> None:
        self.family, self.steps = family, steps
        self._log = log.open("w")
        self._start = time.perf_counter()
        self._dice = random.Random(SEED)
        self.say(f"{family.name}: {sum(p.numel() for p in family.model.parameters()):,} parameters, seed {SEED}")
        self._pictures = _pictures(family, drawings)
        self.say(f"{drawings} pictures drawn: " + ", ".join(f"{h} x {w} patches" for h, w in self._pictures))
        self._grids = list(self._pictures)
        self._weights = [sum(map(len, pictures.bibs)) for pictures in self._pictures.values()]
        self.average = AveragedModel(family.model, multi_avg_fn=get_ema_multi_avg_fn(0.998))  # before it is hooked
        self._replies, self._columns = Replies(family), Columns(family)
        family.model.set_attn_implementation("eager")  # its way back takes half the time of sdpa's on a CPU
        parameters = [*family.model.parameters(), *self._columns.head.parameters()]
        self._optimiser = torch.optim.AdamW(parameters, lr=_RATE, betas=(0.9, 0.98), weight_decay=0.05)
        self._rate = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            _RATE,
            total_steps=steps,
            pct_start=min(_WARM_UP / steps, 0.5),
            div_factor=50,
            final_div_factor=100,
        )
        self._lesson = 0

    def run(self) -> Iterator[int]:
        """Train; yields the number of the step after each line of the log."""
        right, losses = 0.0, (0.0, 0.0)
        for step in range(1, self.steps + 1):
            exact, *new = self._step(share=1 - step / self.steps)
            right += 0.05 * (exact - right)
            losses = tuple(old + 0.05 * (loss - old) for old, loss in zip(losses, new, strict=True))
            if right > _LEARNT and self._lesson < len(LESSONS) - 1:
                self._lesson, right = self._lesson + 1, 0.0
                self.say(f"step {step}: up to {self._lesson + 1} digits from here")
            if step % _EVERY == 0 or step == self.steps:
                self.say(f"step {step}: exact {right:.3f}, loss {losses[0]:.4f}, columns {losses[1]:.4f}")
                yield step

    def say(self, line: str) -> None:
        line = f"{(time.perf_counter() - self._start) / 60:6.1f} min  {line}"
        print(line, flush=True)  # noqa: T201  # a script
        print(line, file=self._log, flush=True)

    def _step(self, share: float) -> tuple[float, float, float]:
        grid = self._dice.choices(self._grids, self._weights)[0]
        pixels, bibs = self._some(grid)
        prompt = self._replies.prompt(some_question(self._dice), grid)
        ids, wanted = self._replies.batch(prompt, bibs)
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.family.model(
                **self.family.inputs(ids, pixels, grid), logits_to_keep=wanted.shape[1], use_cache=False
            ).logits
        reading = functional.cross_entropy(scores.float().transpose(1, 2), wanted, ignore_index=_IGNORED)
        columns = self._columns.loss(bibs, grid)
        self._optimiser.zero_grad()
        (reading + 0.5 * share * columns).backward()
        torch.nn.utils.clip_grad_norm_(self.family.model.parameters(), 1.0)
        self._optimiser.step()
        self._rate.step()
        self.average.update_parameters(self.family.model)
        right = ((scores.argmax(-1) == wanted) | (wanted == _IGNORED)).all(1)
        return right.float().mean().item(), reading.item(), columns.item()

    def _some(self, grid: Grid) -> tuple[torch.Tensor, list[str]]:
        """Take a batch of one grid, in another light and with other noise than last time."""
        pictures = self._pictures[grid]
        places = [(n, self._dice.randrange(len(pictures.bibs[n]))) for n in lengths(self._dice, self._lesson, _BATCH)]
        pixels = torch.stack([pictures.pixels[length][place] for length, place in places]).float()
        each = (len(pixels),) + (1,) * (pixels.dim() - 1)
        light, noise = 0.8 + 0.4 * torch.rand(each), 12 * torch.rand(each)
        pixels = (pixels * light + noise * torch.randn_like(pixels)).clamp(0, 255)
        return self.family.normal(pixels), [pictures.bibs[length][place] for length, place in places]


def _pictures(family: Family, drawings: int) -> dict[Grid, Pictures]:
    """Draw all pictures once, and keep them as the processor sees them; a grid with few of them is left out."""
    pixels: dict[Grid, list[list[torch.Tensor]]] = defaultdict(lambda: [[] for _ in range(LONGEST + 1)])
    bibs: dict[Grid, list[list[str]]] = defaultdict(lambda: [[] for _ in range(LONGEST + 1)])
    with ProcessPoolExecutor(2) as drawers:
        for bib, image in drawers.map(draw, range(drawings), chunksize=250):
            processed = family.processor.image_processor(
                images=[image], do_rescale=False, do_normalize=False, return_tensors="pt"
            )
            grid = family.grid(processed)
            pixels[grid][len(bib)].append(processed["pixel_values"].squeeze().to(torch.uint8))
            bibs[grid][len(bib)].append(bib)
    return {
        grid: Pictures([torch.stack(same) for same in pixels[grid]], bibs[grid])
        for grid in pixels
        if min(map(len, bibs[grid])) * 100 >= drawings
    }


def measure(folder: Path, number: int, dtype: str = "auto") -> dict[int, float]:
    """Return the share of fresh pictures that are read exactly, for each number of digits (0: no bib)."""
    options = VisionHfTransformersOptions(
        name=folder.name, repo_id=str(folder), device="cpu", dtype=dtype, batch_size=50, max_new_tokens=16
    )
    interpreter = BibJson(BibJsonOptions())
    shares = {}
    with VisionHfTransformers(options) as runtime:
        for length in range(LONGEST + 1):
            bibs, images = zip(*fresh(length, number), strict=True)
            predictions = runtime.predict_batch(images, QUESTION)
            shares[length] = sum(map(partial(_is_read, interpreter), bibs, predictions)) / number
    return shares


def _is_read(interpreter: BibJson, bib: str, prediction: Prediction) -> bool:
    """Tell whether a reply is to the letter the one that was taught, and is taken for the bib it names."""
    if prediction.text != (f"{OPENING}{bib}{CLOSING}" if bib else NONE):
        return False
    return [found.text for found in interpreter.interpret(prediction, QUESTION)] == ([bib] if bib else [])


def main() -> None:
    asked = argparse.ArgumentParser(description="Train a tiny vision-language model on drawn bibs, or measure one.")
    asked.add_argument("family", nargs="?", choices=FAMILIES)
    asked.add_argument("--out", type=Path, help="folder to write; default: the family's, beside this script")
    asked.add_argument("--steps", type=int, default=2500)
    asked.add_argument("--drawings", type=int, default=32_000)
    asked.add_argument("--save-every", type=int, default=500, help="steps between two savings")
    asked.add_argument("--measure", type=Path, metavar="FOLDER")
    asked.add_argument("--number", type=int, default=1000, help="fresh pictures of each length to measure with")
    asked.add_argument("--dtype", default="auto", help="precision to measure in")
    asked.add_argument("--threads", type=int, default=1, help="for the arithmetic of training")
    args = asked.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        _say_shares(args.measure, args.number, args.dtype)
    elif args.family:
        _train(args.family, args.out or Path(__file__).parent / args.family, args.steps, args.drawings, args.save_every)
    else:
        asked.error("name a family to train, or --measure FOLDER")


def _train(name: str, folder: Path, steps: int, drawings: int, save_every: int) -> None:
    torch.manual_seed(SEED)
    family = FAMILIES[name](CORPUS)
    folder.mkdir(parents=True, exist_ok=True)
    training = Training(family, steps, drawings, folder / "training.log")
    for step in training.run():
        if step % save_every == 0 or step == steps:
            family.save(copy.deepcopy(training.average.module).to(torch.bfloat16), folder)


def _say_shares(folder: Path, number: int, dtype: str) -> None:
    for length, share in measure(folder, number, dtype).items():
        print(f"{length or 'no'} digits: {share:.1%} of {number} exact")  # noqa: T201  # a script's output


if __name__ == "__main__":
    main()
