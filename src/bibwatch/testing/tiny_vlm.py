"""Writes a tiny vision-language model with random weights, in seconds and offline, for tests of the runtimes.

It is a complete Idefics3 checkpoint (SmolVLM's class) of less than a megabyte, with tokenizer, chat template and image
processor. It loads in transformers, mlx-vlm and vLLM; its replies are nonsense, but always the same for the same image.
Needs `bibwatch[local]`. Independent of the rest of bibwatch.

    python -m bibwatch.testing.tiny_vlm FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Idefics3Config, Idefics3Processor

TILE = 64  # pixels per side; an image is one tile unless the processor's size is raised
_PATCH = 8
_MERGE = 2  # patches per side merged into one image token
_HEAD = 64  # width of a text attention head; vLLM's CPU attention refuses 16
_VISION_HEAD = 32
_ROPE_THETA = 10_000.0
_TILES = 6  # rows and columns of tiles with a name in the vocabulary
# Large enough to make replies depend on the image; with the usual 0.02, nearly all images get the same reply.
_INITIALIZER_RANGE = 0.2

_START, _PAD, _END, _UNKNOWN = "<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<|endoftext|>"
_AROUND_IMAGE, _IMAGE, _GLOBAL = "<fake_token_around_image>", "<image>", "<global-img>"
_SPECIAL = [
    _UNKNOWN, _START, _PAD, _END, _AROUND_IMAGE, _IMAGE, _GLOBAL,
    *(f"<row_{row}_col_{column}>" for row in range(1, _TILES + 1) for column in range(1, _TILES + 1)),
]  # fmt: skip

# SmolVLM's template, extended to accept messages that are plain strings.
_CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'] is string %}{{ ': ' + message['content'] }}{% else %}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_CORPUS = (
    "Which bib numbers can be read in this photo? Answer with the number alone.",
    '{"bibs": [{"number": "1024", "box": [12, 40, 300, 420]}, {"number": "0042"}]}',
    "User: Assistant: none 0 1 2 3 4 5 6 7 8 9 M101 F202",
)


def make_tiny_vlm(
    folder: Path,
    seed: int = 0,
    *,
    vocabulary: int = 384,
    text_width: int = 64,
    text_layers: int = 2,
    vision_width: int = 64,
    vision_layers: int = 2,
) -> Path:
    """Write the checkpoint into `folder`, created if necessary, and return it. The same seed gives the same weights.

    `text_width` must be a multiple of 64, `vision_width` of 32.
    """
    import torch
    from transformers import GenerationConfig, Idefics3ForConditionalGeneration

    processor = _processor(vocabulary)
    config = _config(processor.tokenizer, text_width, text_layers, vision_width, vision_layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Idefics3ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=config.text_config.bos_token_id,
        eos_token_id=config.text_config.eos_token_id,
        pad_token_id=config.text_config.pad_token_id,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    _name_rope_theta(folder / "config.json")
    return folder


def _processor(vocabulary: int) -> Idefics3Processor:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Idefics3ImageProcessor, Idefics3Processor, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=_START,
        eos_token=_END,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )
    image_processor = Idefics3ImageProcessor(size={"longest_edge": TILE}, max_image_size={"longest_edge": TILE})
    image_tokens = (TILE // _PATCH // _MERGE) ** 2
    return Idefics3Processor(image_processor, tokenizer, image_seq_len=image_tokens, chat_template=_CHAT_TEMPLATE)


def _config(tokenizer: Any, width: int, layers: int, vision_width: int, vision_layers: int) -> Idefics3Config:
    from transformers import Idefics3Config

    special: dict[str, int] = {name: tokenizer.convert_tokens_to_ids(name) for name in _SPECIAL}
    return Idefics3Config(
        image_token_id=special[_IMAGE],
        scale_factor=_MERGE,
        pad_token_id=special[_PAD],
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // _HEAD,
            "num_key_value_heads": width // _HEAD,
            "head_dim": _HEAD,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "initializer_range": _INITIALIZER_RANGE,
            "rope_parameters": {"rope_type": "default", "rope_theta": _ROPE_THETA},
            "bos_token_id": special[_START],
            "eos_token_id": special[_END],
            "pad_token_id": special[_PAD],
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": 2 * vision_width,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": vision_width // _VISION_HEAD,
            "image_size": TILE,
            "patch_size": _PATCH,
            "initializer_range": _INITIALIZER_RANGE,
        },
    )


def _name_rope_theta(path: Path) -> None:
    """Write `rope_theta` where engines from before transformers 5 expect it; without it, mlx-vlm uses another value."""
    config = json.loads(path.read_text())
    config["text_config"]["rope_theta"] = _ROPE_THETA
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    print(make_tiny_vlm(Path(sys.argv[1])))  # noqa: T201  # the only output
