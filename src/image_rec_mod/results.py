"""What `extract` returns: `{"bib": 256, "bibs": [...]}` or `{"error": "..."}`, ready to be written as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bibwatch.domain.readings import Reading
from bibwatch.recognition import reason

Result = dict[str, Any]


def result_of(readings: Iterable[Reading]) -> Result:
    """Return the result for the bibs in a photo, most probable first; `bib` is None if there are none."""
    ranked = sorted(readings, key=lambda reading: -reading.probability)
    bibs = [
        {
            "number": reading.bib,
            "confidence": round(reading.probability, 4),
            "box": reading.box and reading.box.rounded(),
            "verdict": reading.verdict.value,
        }
        for reading in ranked
    ]
    return {"bib": _as_number(ranked[0].bib) if ranked else None, "bibs": bibs}


def error_of(exc: Exception) -> Result:
    """Return the result for a photo that could not be read."""
    return {"error": reason(exc)}


def checked(result: object) -> Result:
    """Return a hook's result if it is valid. Raise TypeError otherwise."""
    if not (isinstance(result, dict) and {"bib", "error"} & result.keys()):
        raise TypeError(f"_process_image must return a dict with `bib` or `error`, not {result!r}")
    return result


def _as_number(bib: str) -> int | str:
    """Convert a bib to an integer if nothing is lost: `256`, but `"0042"` and `"M101"`."""
    return int(bib) if bib.isdigit() and str(int(bib)) == bib else bib
