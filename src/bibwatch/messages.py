"""Error messages for wrong names and values: what is wrong, where, and the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence

from pydantic import ValidationError


def explain(
    exc: ValidationError,
    names_at: Callable[[Sequence[int | str]], Collection[str] | None],
    where: str = "",
    moved: Mapping[str, str] | None = None,
) -> str:
    """Return a validation error as text: one line per mistake, with the nearest known name for a misspelt key.

    `names_at` returns the keys allowed at a location, `where` is the location of the validated object, and `moved`
    maps former keys to the settings that replace them.
    """
    lines = []
    for error in exc.errors(include_url=False):
        *above, last = error["loc"] or ("",)
        place = ".".join(filter(None, [where, *map(str, error["loc"])]))
        if error["type"] == "extra_forbidden" and moved and last in moved:
            variable = "BIBWATCH_" + moved[str(last)].replace(".", "__").upper()
            lines.append(f"{place} is now {moved[str(last)]} (environment: {variable})")
        elif error["type"] == "extra_forbidden":
            lines.append(unknown("key", place, names_at(above) or (), str(last)))
        else:
            lines.append(f"{place}: {error['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def unknown(what: str, name: str, names: Collection[str], word: str | None = None) -> str:
    """Return a message for an unknown name, with the nearest known one, or all of them."""
    near = difflib.get_close_matches(word or name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(names)) or 'none'}"
    return f"unknown {what} {name!r}; {hint}"


def alike(name: str, other: str) -> bool:
    """Return whether two names are equal apart from `-` and `_`: environment variables cannot contain `-`."""
    return name.replace("_", "-") == other.replace("_", "-")
