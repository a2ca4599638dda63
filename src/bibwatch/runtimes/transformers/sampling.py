"""Choosing the next token, and recording how probable it was.

Knows torch's scores; transformers calls these as logits processors. Does not know the tokens' texts.
"""

from __future__ import annotations

from typing import Any


class LogprobRecorder:
    """Records the log-probability of each chosen token, without keeping the scores of all others.

    Must be the first processor, to record the model's own probabilities before a grammar or sampling changes them.
    """

    def __init__(self) -> None:
        self._chosen: list[Any] = []
        self._logprobs: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Record the previous token and return the scores unchanged."""
        self._record(input_ids)
        self._logprobs = scores.float().log_softmax(-1)
        return scores

    def of(self, sequences: Any) -> Any:
        """Return the log-probabilities of finished sequences: one row per sequence, one column per new token."""
        import torch

        self._record(sequences)
        return torch.cat(self._chosen, dim=1)

    def _record(self, sequences: Any) -> None:
        if self._logprobs is not None:
            self._chosen.append(self._logprobs.gather(1, sequences[:, -1:]))


class SeededSampler:
    """Samples tokens by their probabilities: the token with the highest score afterwards is the sample.

    Each reply has its own random generator, which starts from the seed, so that an image gets the same reply in any
    batch.
    """

    def __init__(self, replies: int, *, temperature: float, top_p: float, seed: int | None) -> None:
        import torch
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        self._warpers = [TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)]
        self._generators = [torch.Generator() for _ in range(replies)]
        for generator in self._generators:
            generator.seed() if seed is None else generator.manual_seed(seed)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Add Gumbel noise to the scores: the maximum is then a sample."""
        import torch

        scores = scores.float()
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        exponential = torch.empty(scores.shape[-1])
        noise = [
            exponential.exponential_(generator=generator).clamp_min(torch.finfo().tiny).log()
            for generator in self._generators
        ]
        return scores - torch.stack(noise).to(scores.device)
