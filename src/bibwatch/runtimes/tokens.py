"""Matching tokens to a text."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bibwatch.runtimes.base import Token


def tokens_of(text: str, tokens: Iterable[Token]) -> tuple[Token, ...]:
    """Return the leading tokens that make up the text; none if they do not match it.

    Engines also list the token that ends a reply, and cannot represent part of a character as text.
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
