"""Which token a model takes of those it offers, and how probable it was.

Knows torch's scores; transformers asks these as logits processors. Does not know tokens' texts.
"""

from __future__ import annotations

from typing import Any


class Probabilities:
    """Keeps the probability of each token that was taken, and not the scores of all that were not.

    They are the model's own: this must look on before a form forbids tokens, or chance has a say.
    """

    def __init__(self) -> None:
        self._taken: list[Any] = []
        self._offered: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Look on as a token is chosen, the way transformers asks its logits processors."""
        self._note(input_ids)
        self._offered = scores.float().log_softmax(-1)
        return scores

    def of(self, sequences: Any) -> Any:
        """Return the logarithms for the finished sequences: one row each, one column a new token."""
        import torch

        self._note(sequences)
        return torch.cat(self._taken, dim=1)

    def _note(self, sequences: Any) -> None:
        if self._offered is not None:
            self._taken.append(self._offered.gather(1, sequences[:, -1:]))


class SeededSampler:
    """Draws tokens by their probabilities: the likeliest after this is one that was drawn.

    Each reply has a chance of its own that starts from the seed. So a picture gets the same answer whatever
    pictures it shares a batch with, and however often a batch was halved.
    """

    def __init__(self, replies: int, *, temperature: float, top_p: float, seed: int | None) -> None:
        import torch
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        self._warpers = [TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)]
        self._generators = [torch.Generator() for _ in range(replies)]
        for generator in self._generators:
            generator.seed() if seed is None else generator.manual_seed(seed)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Add noise of Gumbel's distribution to the scores: the largest sum is then a draw by probability."""
        import torch

        scores = scores.float()
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        rates = torch.empty(scores.shape[-1])
        drawn = [
            rates.exponential_(generator=generator).clamp_min(torch.finfo().tiny).log()
            for generator in self._generators
        ]
        return scores - torch.stack(drawn).to(scores.device)
