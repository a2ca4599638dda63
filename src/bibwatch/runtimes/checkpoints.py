"""What the engines that read Hugging Face checkpoints have in common: where the folder is, how pictures are sized,
which text each token is.

Knows what such a folder and its processor look like. Imports no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from bibwatch.errors import ConfigurationError
from bibwatch.runtimes.hub import HubOptions, folder_of, real_name

log = structlog.get_logger()

_HALF_A_LETTER = "\N{REPLACEMENT CHARACTER}"  # a token may be the first bytes of a letter


def folder(options: HubOptions) -> Path:
    """Return the folder of the model's files. Raises ConfigurationError if they are not on this machine."""
    name = real_name(options.repo_id)
    if name != options.repo_id:
        log.warning("model.renamed", named=options.repo_id, taken=name)
    found = folder_of(options.repo_id, options.revision)
    if found is None:
        raise ConfigurationError(f"preset {options.name}: {options.absence()}")
    return found


def picture_size(options: HubOptions, default: Mapping[str, int | None]) -> dict[str, int] | None:
    """Return the size a processor is to bring pictures to, None for its own `default`.

    Raises ConfigurationError for a knob that a processor with such a default does not have.
    """
    by_area = default.get("shortest_edge") is not None  # Qwen's names for an area
    if options.image_longest_edge is not None:
        if by_area or default.get("longest_edge") is None:
            raise _no_knob(options, "image_longest_edge", "min_pixels and max_pixels" if by_area else "longest_side")
        return {"longest_edge": options.image_longest_edge}
    if options.min_pixels is None and options.max_pixels is None:
        return None
    if not by_area:
        raise _no_knob(options, "min_pixels and max_pixels", "image_longest_edge or longest_side")
    least, most = options.min_pixels or default["shortest_edge"], options.max_pixels or default["longest_edge"]
    if least is None or most is None or least > most:
        raise ConfigurationError(f"preset {options.name}: min_pixels {least} is over max_pixels {most}")
    return {"shortest_edge": least, "longest_edge": most}


def _no_knob(options: HubOptions, named: str, instead: str) -> ConfigurationError:
    return ConfigurationError(f"preset {options.name}: {options.repo_id} does not know {named}; use {instead}")


def token_texts(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """Return the text each token adds; joined they are what `decode` says of all.

    A letter of several tokens belongs to its last. Tokens are decoded with the piece before them, for what a
    token looks like can depend on that: a space, or none at the start.
    """
    texts = []
    before, start = 0, 0  # of the piece already told, and of the piece being put together
    for end in range(1, len(ids) + 1):
        told, so_far = decode(ids[before:start]), decode(ids[before:end])
        if so_far.endswith(_HALF_A_LETTER) and end < len(ids):
            texts.append("")
            continue
        texts.append(so_far[len(told) :])
        before, start = start, end
    return texts
