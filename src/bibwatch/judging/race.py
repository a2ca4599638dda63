"""What is known of a race: the form of its bibs, its start list, and how sure a reading must be to be accepted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

from bibwatch.domain.candidates import Candidate, normalized
from bibwatch.judging.form import LearnedForm, usual_shapes
from bibwatch.judging.start_list import Match, StartList

# Until a race says what its bibs look like: two to five digits, or a letter and three to five.
DEFAULT_FORM = re.compile(r"\d{2,5}|[A-Z]\d{3,5}")

# Log-odds of a number on the start list; the least of one with a form that the list does not have: a late entry, say,
# which must stay visible.
_ENTERED, _LATE_ENTRY = 0.3, -1.0
_USUAL = 1.0  # log-odds
# How often bibs have a shape that is not in the table of shapes: of any race, and of one whose configured form it has.
_RARE, _UNUSUAL = 0.003, 0.2

# The pieces of a regular expression: what stands for one character, and what only groups, anchors or repeats.
_PIECE = re.compile(
    r"(?P<atom>\[\^?\]?(?:\\.|[^\]\\])*\]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.)"
    r"|\(\?#[^)]*\)|\(\?(?:P?<\w+>|[a-zA-Z-]*:|[a-zA-Z]+\)|<?[=!])|\{\d*,?\d*\}|[()|*+?^$]"
    r"|(?P<literal>.)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Race:
    """The context in which candidates are judged."""

    forms: tuple[re.Pattern[str], ...] = (DEFAULT_FORM,)  # a bib matches one of them as a whole
    accept_at: float = 0.95  # the least probability of an accepted reading
    learned: LearnedForm = field(default_factory=LearnedForm)  # what the race's own readings show
    start_list: StartList | None = None

    def bib(self, text: str) -> str | None:
        """Return the bib that a text is as a whole, in capitals and without spaces; None if it is none.

        A text without the leading zeros of an entry is of its form.
        """
        plain = normalized(text)
        if not self._has_form(plain) and not self._has_form(self._entry(plain)):
            return None
        # Full-width digits are digits; those of other scripts would be a bib that no query finds.
        foreign = not plain.isascii() and any(sign.isdigit() and not sign.isascii() for sign in plain)
        return None if foreign else plain

    def bibs(self, candidate: Candidate) -> list[tuple[str, float]]:
        """Return the bibs that a candidate may be, with their odds against its text: its text first, if it is one."""
        odds = candidate.odds or (1.0,) * len(candidate.alternatives)
        texts = [(candidate.text, 1.0), *zip(candidate.alternatives, odds, strict=True)]
        found = [(bib, each) for text, each in texts if (bib := self.bib(text))]
        return sorted(found, key=lambda each: not self.is_entered(each[0])) if self.start_list else found

    def has_usual_form(self, bib: str) -> bool:
        """Return whether the form of the race, once it is known, clearly speaks for a number."""
        known = self.learned.numbers or self.start_list is not None or self.forms != (DEFAULT_FORM,)
        return bool(known) and self.form_log_odds(bib) > _USUAL

    def learning(self, clear: Iterable[str]) -> Race:
        """Return the race with its form learned from the numbers that were clearly read, as far as they are bibs."""
        return replace(self, learned=LearnedForm.of(bib for bib in clear if self.bib(bib)))

    def form_log_odds(self, bib: str) -> float:
        """Return how much the form of the race and its start list speak for a number: the logarithm of its odds."""
        if self._listed is None:
            return self.learned.log_odds(bib, self._usual, _RARE if self.forms == (DEFAULT_FORM,) else _UNUSUAL)
        entry = normalized(self._entry(bib) or bib)
        # A list shows what bibs look like, as a race's own numbers do; a misread number may be on it by chance.
        form = min(_USUAL, max(_LATE_ENTRY, self._listed.log_odds(entry, self._usual)))
        return form + (_ENTERED if self.is_entered(bib) else 0)

    @cached_property
    def _usual(self) -> Mapping[str, float]:
        return usual_shapes(self.forms)

    @cached_property
    def _listed(self) -> LearnedForm | None:
        """The form of the bibs on the start list."""
        return None if self.start_list is None else LearnedForm.of(self.start_list.bibs, whole=True)

    def match(self, bib: str) -> Match | None:
        """Return what the start list says of a bib; None without a list."""
        return None if self.start_list is None else self.start_list.match(bib)

    def _has_form(self, plain: str | None) -> bool:
        return plain is not None and any(form.fullmatch(plain) for form in self.forms)

    def _entry(self, plain: str) -> str | None:
        return None if self.start_list is None else self.start_list.entry(plain)

    def is_entered(self, bib: str) -> bool:
        """Return whether a bib is on the start list."""
        return self.start_list is not None and bib in self.start_list


def form(pattern: str) -> re.Pattern[str]:
    r"""Return the form that a pattern of the configuration describes.

    Raises ValueError for what is no regular expression, and for one that matches no digit: systemd makes `d{3,4}` of
    an unquoted `\d{3,4}`, and no bib would ever be read.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"{pattern!r} is not a regular expression: {exc}") from exc
    atoms = [piece["atom"] or piece["literal"] or "" for piece in _PIECE.finditer(pattern)]
    if not any(map(_matches_a_digit, atoms)):
        raise ValueError(
            rf"{pattern!r} matches no digit; write \d for one (in an EnvironmentFile of systemd, in single quotes)"
        )
    return compiled


def _matches_a_digit(atom: str) -> bool:
    with suppress(re.error):  # a reference to a group, which is judged by itself
        return any(re.fullmatch(atom, digit) for digit in "0123456789")
    return False
