"""Constrained replies: which tokens may come next, according to llguidance.

Knows grammars and tokenizers. transformers calls it as a logits processor, other engines token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bibwatch.errors import ModelError, ModelUnavailableError, one_line
from bibwatch.runtimes.base import Constraint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Endless whitespace is valid JSON, and weak models generate it until they are cut off.
_JSON = {"whitespace_pattern": " ?"}


class GrammarCompiler:
    """Compiles constraints for one tokenizer. Create it once: reading a large vocabulary takes a second."""

    def __init__(self, tokenizer: Any, end_tokens: Sequence[int], *, extra: str) -> None:
        """`end_tokens` end a reply; `extra` is the extra of bibwatch that installs llguidance.

        Raises ModelUnavailableError if llguidance is missing, ModelError for an unsupported tokenizer.
        """
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as exc:
            raise ModelUnavailableError(
                f"cannot constrain replies: {one_line(exc)}: pip install 'bibwatch[{extra}]'"
            ) from exc
        try:
            self._tokenizer = from_tokenizer(tokenizer, eos_token=list(end_tokens) or None)
        except Exception as exc:
            raise ModelError(f"cannot constrain replies: {one_line(exc)}") from exc

    def matcher(self, constraint: Constraint, replies: int) -> GrammarMatcher:
        """Return a matcher for a batch of replies. Raises ModelError for an invalid constraint."""
        from llguidance import LLMatcher

        try:
            if constraint.json_schema is not None:
                grammar = LLMatcher.grammar_from_json_schema(constraint.json_schema, overrides=_JSON)
            else:
                grammar = LLMatcher.grammar_from_regex(constraint.regex or "(.|\n)*")
        except ValueError as exc:
            raise ModelError(f"invalid constraint: {one_line(exc)}") from exc
        if reason := LLMatcher.validate_grammar(grammar, self._tokenizer):
            raise ModelError(f"invalid constraint: {' '.join(reason.split())}")
        return GrammarMatcher([LLMatcher(self._tokenizer, grammar) for _ in range(replies)])


class GrammarMatcher:
    """Tracks the replies of one batch as they are generated."""

    def __init__(self, matchers: Sequence[Any]) -> None:
        self._matchers = matchers
        self._started = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Mask the scores of tokens that may not come next."""
        import torch

        allowed = torch.from_numpy(self.allowed(input_ids[:, -1].tolist(), scores.shape[-1])).to(scores.device)
        return scores.masked_fill(~allowed, float("-inf"))

    def allowed(self, last: Sequence[int], width: int) -> NDArray[np.bool_]:
        """Return for each reply which of `width` tokens may follow its last token."""
        import numpy as np

        for matcher, token in zip(self._matchers, last, strict=True):
            if self._started and not matcher.is_stopped():  # a finished reply is padded with arbitrary tokens
                matcher.consume_token(token)
        self._started = True
        bits = np.stack([np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8) for matcher in self._matchers])
        for matcher in self._matchers:
            if matcher.is_error():
                raise ModelError(f"the reply violates the constraint: {' '.join(matcher.get_error().split())}")
        tokens = np.unpackbits(bits, axis=1, bitorder="little").astype(bool)[:, :width]
        return np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])))
