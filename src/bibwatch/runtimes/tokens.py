"""Tokens that belong to a text."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bibwatch.runtimes.base import Token


def tokens_of(text: str, tokens: Iterable[Token]) -> tuple[Token, ...]:
    """Return the first tokens that together are the text, or none if they are not: then they say nothing of it.

    Engines list the token that ends a reply too, and cannot write half a character as text.
    """
    found = []
    rest = text
    for token in tokens:
        if not rest:
            break
        if not rest.startswith(token.text) or not math.isfinite(token.logprob):
            return ()
        rest = rest[len(token.text) :]
        found.append(token)
    return () if rest else tuple(found)
