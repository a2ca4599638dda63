"""What the engines for Hugging Face checkpoints share: finding the folder, sizing images, the text of each token.

Knows the layout of such a folder and its processor. Imports no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from bibwatch.errors import ConfigurationError
from bibwatch.runtimes.hub import HubOptions, folder_of, hub_name

log = structlog.get_logger()

_PARTIAL_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # a token may be the first bytes of a character


def folder(options: HubOptions) -> Path:
    """Return the folder of the model's files. Raises ConfigurationError if they are not on this machine."""
    name = hub_name(options.repo_id)
    if name != options.repo_id:
        log.warning("model.renamed", named=options.repo_id, taken=name)
    found = folder_of(options.repo_id, options.revision)
    if found is None:
        raise ConfigurationError(f"preset {options.name}: {options.missing_model()}")
    return found


def image_size(options: HubOptions, default: Mapping[str, int | None]) -> dict[str, int] | None:
    """Return the size that a processor is to resize images to; None for its `default`.

    Raises ConfigurationError for a setting that a processor with this default does not support.
    """
    by_area = default.get("shortest_edge") is not None  # Qwen uses these names for areas
    if options.image_longest_edge is not None:
        if by_area or default.get("longest_edge") is None:
            raise _unsupported(
                options, "image_longest_edge", "min_pixels and max_pixels" if by_area else "longest_side"
            )
        return {"longest_edge": options.image_longest_edge}
    if options.min_pixels is None and options.max_pixels is None:
        return None
    if not by_area:
        raise _unsupported(options, "min_pixels and max_pixels", "image_longest_edge or longest_side")
    smallest, largest = options.min_pixels or default["shortest_edge"], options.max_pixels or default["longest_edge"]
    if smallest is None or largest is None or smallest > largest:
        raise ConfigurationError(f"preset {options.name}: min_pixels {smallest} is larger than max_pixels {largest}")
    return {"shortest_edge": smallest, "longest_edge": largest}


def _unsupported(options: HubOptions, setting: str, instead: str) -> ConfigurationError:
    return ConfigurationError(f"preset {options.name}: {options.repo_id} does not support {setting}; use {instead}")


def token_texts(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """Return the text that each token adds; joined, they equal the decoded reply.

    A character that spans several tokens belongs to the last. Tokens are decoded together with the previous piece,
    which can affect their text: some tokenizers drop a leading space.
    """
    texts = []
    previous, start = 0, 0  # where the previous and the current piece begin
    for end in range(1, len(ids) + 1):
        prefix, so_far = decode(ids[previous:start]), decode(ids[previous:end])
        if so_far.endswith(_PARTIAL_CHARACTER) and end < len(ids):
            texts.append("")
            continue
        texts.append(so_far[len(prefix) :])
        previous, start = start, end
    return texts
