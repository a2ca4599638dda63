"""Replies of a given form: which tokens may come next, by llguidance.

Knows grammars and tokenizers; transformers asks it as one of its logits processors, other engines token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bibwatch.errors import ModelError, ModelUnavailableError, one_line
from bibwatch.runtimes.base import Constraint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Spaces without end are valid JSON, and weak models write them until they are cut off.
_JSON = {"whitespace_pattern": " ?"}


class GrammarCompiler:
    """Makes forms for one tokenizer. Reading its vocabulary takes a second for a large one, so it is done once."""

    def __init__(self, tokenizer: Any, ends: Sequence[int], *, extra: str) -> None:
        """`ends` are the tokens that end a reply; `extra` is what brings llguidance in.

        Raises ModelUnavailableError where llguidance is missing, ModelError for a tokenizer it cannot read.
        """
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as exc:
            raise ModelUnavailableError(
                f"cannot hold replies to a form: {one_line(exc)}: pip install 'bibwatch[{extra}]'"
            ) from exc
        try:
            self._tokenizer = from_tokenizer(tokenizer, eos_token=list(ends) or None)
        except Exception as exc:
            raise ModelError(f"cannot hold replies to a form: {one_line(exc)}") from exc

    def matcher(self, constraint: Constraint, replies: int) -> GrammarMatcher:
        """Return the form that so many replies are to have. Raises ModelError for a constraint that is none."""
        from llguidance import LLMatcher

        try:
            if constraint.json_schema is not None:
                grammar = LLMatcher.grammar_from_json_schema(constraint.json_schema, overrides=_JSON)
            else:
                grammar = LLMatcher.grammar_from_regex(constraint.regex or "(.|\n)*")
        except ValueError as exc:
            raise ModelError(f"not a form for a reply: {one_line(exc)}") from exc
        if wrong := LLMatcher.validate_grammar(grammar, self._tokenizer):
            raise ModelError(f"not a form for a reply: {' '.join(wrong.split())}")
        return GrammarMatcher([LLMatcher(self._tokenizer, grammar) for _ in range(replies)])


class GrammarMatcher:
    """Follows the replies of one batch as they are written."""

    def __init__(self, matchers: Sequence[Any]) -> None:
        self._matchers = matchers
        self._started = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Leave of torch's scores those of tokens that may come next."""
        import torch

        allowed = torch.from_numpy(self.allowed(input_ids[:, -1].tolist(), scores.shape[-1])).to(scores.device)
        return scores.masked_fill(~allowed, float("-inf"))

    def allowed(self, last: Sequence[int], width: int) -> NDArray[np.bool_]:
        """Return for each reply which of `width` tokens may come next, after the last one it was given."""
        import numpy as np

        for matcher, token in zip(self._matchers, last, strict=True):
            if self._started and not matcher.is_stopped():  # a reply that has ended is filled up with any token
                matcher.consume_token(token)
        self._started = True
        bits = np.stack([np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8) for matcher in self._matchers])
        for matcher in self._matchers:
            if matcher.is_error():
                raise ModelError(f"the reply left its form: {' '.join(matcher.get_error().split())}")
        tokens = np.unpackbits(bits, axis=1, bitorder="little").astype(bool)[:, :width]
        return np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])))
