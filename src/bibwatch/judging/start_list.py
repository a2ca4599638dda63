"""The start list: which bibs there are, and which of them a number may be that is not among them.

Knows numbers as text. Does not know files, tables, or what a match is worth.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from string import ascii_uppercase

from bibwatch.domain.candidates import normalized
from bibwatch.domain.entries import Difference, EntryMatch, Near

MOST_NEAR = 5  # near entries of one number; they are suggestions for a person
_NAMED = 2  # of these, how many a reason names
_FEWEST_SEEN = 2  # characters that must be seen of a number with a hidden end
_REMEMBERED = 65536  # matches kept: a race has few texts, and many photos of each

# Characters that are read for one another.
_LOOK_ALIKES = (
    *("17", "14", "27", "35", "38", "49", "56", "58", "06", "08", "68", "69", "89"),
    *("0O", "0D", "0Q", "1I", "1L", "1T", "2Z", "3E", "4A", "5S", "6G", "7T", "7Y", "8B", "9G"),
)
_CONFUSIONS = frozenset({*_LOOK_ALIKES, *(pair[::-1] for pair in _LOOK_ALIKES)})
_RANKS = {difference: rank for rank, difference in enumerate(Difference)}
_NUMBER = re.compile(r"(\D*)0+(\d.*)", re.DOTALL)

_Index = Mapping[str, Sequence[str]]  # entries by a text


@dataclass(frozen=True)
class Match:
    """What the start list says of a number."""

    kind: EntryMatch
    entry: str | None = None  # as printed: the number itself, or the nearest
    near: tuple[Near, ...] = ()  # where it is not on the list; the likeliest first, `MOST_NEAR` at most

    def __str__(self) -> str:
        if self.kind is EntryMatch.EXACT:
            return "on the start list"
        nearest = f"; near {', '.join(map(str, self.near[:_NAMED]))}" if self.near else ""
        return f"not on the start list{nearest}"


class StartList:
    """The bibs of a race, as printed. Immutable and thread-safe.

    A look-up takes time in proportion to the length of the number, however long the list is.
    """

    def __init__(self, bibs: Iterable[str]) -> None:
        """Index the bibs; their order does not matter, and one that comes twice counts once."""
        self.bibs: tuple[str, ...] = tuple(sorted(set(bibs)))
        forms = sorted(
            ((form, bib) for bib in self.bibs for form in _forms(bib)), key=lambda item: (len(item[0]), item)
        )
        self._by_form = _index(forms)
        self._by_core = _index((core, bib) for form, bib in forms for core in _cores(form))
        self._by_rest = _index(((rest, bib) for form, bib in forms for rest in _rests(form)), most=MOST_NEAR)
        self._characters = sorted({character for form in self._by_form for character in form})
        self._longest_prefix = max(map(len, map(_prefix, self._by_form)), default=0)
        self.match = lru_cache(_REMEMBERED)(self._match)

    def __len__(self) -> int:
        return len(self.bibs)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the bibs (12 hex digits)."""
        return hashlib.sha256("\0".join(self.bibs).encode()).hexdigest()[:12]

    @cached_property
    def shapes(self) -> tuple[re.Pattern[str], ...]:
        """The forms of the bibs as printed: a digit or a capital where the list has one."""
        return tuple(map(re.compile, sorted({_shape(normalized(bib)) for bib in self.bibs})))

    def could_be_rest_of(self, bib: str) -> tuple[str, ...]:
        """Return entries that a number may be the visible rest of, the shortest first, `MOST_NEAR` at most."""
        forms = _forms(normalized(bib))
        found = {entry for form in forms if len(form) >= _FEWEST_SEEN for entry in self._by_rest.get(form, ())}
        return tuple(sorted(found, key=lambda entry: (len(normalized(entry)), entry))[:MOST_NEAR])

    def __contains__(self, bib: str) -> bool:
        """Return whether a number is on the list, leading zeros aside."""
        return self.entry(bib) is not None

    def entry(self, bib: str) -> str | None:
        """Return the entry that a number is, as printed; None if there is none, or more than one."""
        plain = normalized(bib)
        same = self._by_form.get(_number(plain), ())
        printed = [entry for entry in same if normalized(entry) == plain]
        return (printed or same)[0] if printed or len(same) == 1 else None

    def _match(self, bib: str) -> Match:
        """Say whether a number is on the list, and if it is not, which entries it may be."""
        if (entry := self.entry(bib)) is not None:
            return Match(EntryMatch.EXACT, entry)
        plain = normalized(bib)
        found = filter(None, (compare(plain, entry) for entry in set(self._possible(plain))))
        near = tuple(sorted(found, key=_weight)[:MOST_NEAR])
        return Match(EntryMatch.NEAR, near[0].entry, near) if near else Match(EntryMatch.UNKNOWN)

    def _possible(self, plain: str) -> Iterator[str]:
        """Yield the entries that may be near, and some that are not."""
        yield from self._by_form.get(_number(plain), ())
        for form in _forms(plain):
            for place in range(len(form)):
                before, after = form[:place], form[place + 1 :]
                for character in self._characters:
                    yield from self._by_form.get(before + character + after, ())
                yield from self._by_form.get(before + after[:1] + form[place] + after[1:], ())
            for length in range(self._longest_prefix + 1):
                yield from self._by_core.get(form[length:], ())
            yield from self._by_form.get(form[len(_prefix(form)) :], ())
            yield from self._by_rest.get(form, ())


def compare(read: str, entry: str) -> Near | None:
    """Return how a number that was read differs from an entry; None if it differs by more than one mistake."""
    if _number(normalized(read)) == _number(normalized(entry)):
        return Near(entry, Difference.LEADING_ZEROS)
    pairs = ((one, other) for one in _forms(read) for other in _forms(entry))
    found = [Near(entry, *difference) for pair in pairs if (difference := _difference(*pair))]
    return min(found, key=_weight, default=None)


def _difference(read: str, entry: str) -> tuple[Difference, str] | None:
    prefix, letters = _prefix(entry), _prefix(read)
    if len(read) == len(entry):
        return _mistake(read, entry, prefix)
    if len(read) >= _FEWEST_SEEN and read in _cores(entry):
        return Difference.LOST_PREFIX, ""
    if len(read) >= _FEWEST_SEEN and read in _rests(entry):
        return Difference.HIDDEN_END, str(len(entry) - len(read))
    if letters and not prefix and read[len(letters) :] == entry:
        return Difference.EXTRA_PREFIX, ""
    return None


def _mistake(read: str, entry: str, prefix: str) -> tuple[Difference, str] | None:
    """Return how two texts of the same length differ."""
    places = [place for place, (one, other) in enumerate(zip(read, entry, strict=True)) if one != other]
    if prefix and read[: len(prefix)].isdigit() and read[len(prefix) :] == entry[len(prefix) :]:
        return Difference.LOST_PREFIX, ""
    if len(places) == 1:
        pair = read[places[0]] + entry[places[0]]
        return Difference.CONFUSION if pair in _CONFUSIONS else Difference.SUBSTITUTION, "/".join(pair)
    first, last = places[0], places[-1]
    if last == first + 1 and read[first] == entry[last] and read[last] == entry[first]:
        return Difference.TRANSPOSITION, ""
    return None


def _weight(near: Near) -> tuple[int, int, str]:
    hidden = int(near.detail) if near.difference is Difference.HIDDEN_END else 0
    return _RANKS[near.difference], hidden, near.entry


def _number(plain: str) -> str:
    """Return a bib without the leading zeros of its number, which a list and a card may write differently."""
    found = _NUMBER.fullmatch(plain)
    return found[1] + found[2] if found else plain


def _forms(bib: str) -> tuple[str, ...]:
    plain = normalized(bib)
    return tuple(dict.fromkeys((plain, _number(plain))))


def _prefix(plain: str) -> str:
    """Return the letters that a bib begins with, if a digit follows."""
    rest = plain.lstrip(ascii_uppercase)
    return plain[: len(plain) - len(rest)] if rest[:1].isdigit() else ""


def _cores(form: str) -> tuple[str, ...]:
    """Return what is left of a bib when letters of its prefix are lost."""
    return tuple(form[lost:] for lost in range(1, len(_prefix(form)) + 1))


def _rests(form: str) -> set[str]:
    """Return what is left of a bib when one end is hidden, unless that is the same number."""
    rests = {form[:seen] for seen in range(1, len(form))} | {form[hidden:] for hidden in range(1, len(form))}
    return {rest for rest in rests if len(rest) >= _FEWEST_SEEN and _number(rest) != _number(form)}


def _shape(form: str) -> str:
    classes = groupby(
        r"\d" if each.isdigit() else "[A-Z]" if each in ascii_uppercase else re.escape(each) for each in form
    )
    return "".join(f"{each}{{{len(list(run))}}}" for each, run in classes)


def _index(items: Iterable[tuple[str, str]], most: int | None = None) -> _Index:
    """Return the entries by text, in the order given, each once; of each text only so many."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for text, entry in items:
        entries = found[text]
        if (most is None or len(entries) < most) and entry not in entries:
            entries.append(entry)
    return dict(found)
