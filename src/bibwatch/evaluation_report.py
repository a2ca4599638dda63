"""The report of an evaluation: one HTML page with figures, plots, and a picture of every mistake.

The page is self-contained: style, plots (SVG) and pictures (JPEG) are inside it. Knows how figures are shown; counts
none of them.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import TypeVar

from PIL import Image, ImageDraw

from bibwatch import __version__, evaluation, images
from bibwatch.domain.box import Box
from bibwatch.domain.readings import Verdict
from bibwatch.errors import PhotoError
from bibwatch.evaluation import Bin, Estimate, JudgedPhoto, Miss, Summary, Threshold, WrongReading
from bibwatch.images import ImageLimits, Photo
from bibwatch.judging.explanation import Explanation
from bibwatch.labels import LabelledPhoto

T = TypeVar("T")
_GREEN, _BLUE, _RED, _GREY = "#1b7f3b", "#1a5fb4", "#b3261e", "#6b6f76"
_MARGIN = 1.0  # around a bib, in widths of its box on either side; in heights twice that
_CROP = (420, 280)  # pixels of a picture at most
_ENLARGED = 4.0  # times, at most
_JPEG_QUALITY = 82
_PLOT = (460, 300)  # the size of a plot, and the margins inside it: left, top, right, bottom
_FLOORS = (0.0, 0.5, 0.75)  # where the axis of a plot may start: small differences near 1 matter
_INSET = (48, 14, 24, 40)


@dataclass(frozen=True)
class Setup:
    """What was evaluated."""

    labels: str  # the name of the file
    stage: str
    preset: str
    model: str
    accept_at: float
    seconds_per_photo: float


def page(setup: Setup, judged: Sequence[JudgedPhoto], thresholds: Sequence[Threshold], limits: ImageLimits) -> str:
    """Return the page. Opens the photos with mistakes again, for their pictures."""
    total = evaluation.summarize(judged)
    races = {name: evaluation.summarize(photos) for name, photos in evaluation.by_race(judged).items()}
    pictures = _Pictures(limits)
    wrong = evaluation.wrong_readings(judged)
    accepted = [each for each in wrong if each.reading.verdict is Verdict.ACCEPTED]
    review = [each for each in wrong if each.reading.verdict is not Verdict.ACCEPTED]
    sections = (
        _section("Wrong, and accepted", "nobody would look at these", accepted, lambda each: _wrong(each, pictures)),
        _section("Missed", "bibs that are neither accepted nor in review", _by_photo(evaluation.misses(judged)),
                 lambda each: _miss(each, pictures)),
        _section("Wrong, sent to review", "a person would see these", review, lambda each: _wrong(each, pictures)),
    )  # fmt: skip
    return _PAGE.substitute(
        title=escape(f"bibwatch: {setup.labels}"),
        setup=escape(
            f"{total.photos} photos of {setup.labels} · stage {setup.stage} · preset {setup.preset} ({setup.model}) · "
            f"accepted from {setup.accept_at:g} · bibwatch {__version__}"
        ),
        words=escape(_in_words(total)),
        tiles=_tiles(total, setup),
        races=_races(total, races),
        sweep_plot=_sweep_plot(thresholds, setup.accept_at),
        sweep_table=_sweep_table(thresholds, total.photos, setup.accept_at),
        reliability_plot=_reliability_plot(evaluation.reliability(judged)),
        reliability_table=_reliability_table(evaluation.reliability(judged)),
        mistakes="".join(sections),
        failed=_failed(judged),
    )


# Figures


def percent(value: float | None) -> str:
    """Write a share for a person."""
    return "-" if value is None else f"{value:.1%}"


def interval(estimate: Estimate) -> str:
    """Write a 95 % interval of shares for a person."""
    return "" if estimate.low is None or estimate.high is None else f"{estimate.low:.1%} to {estimate.high:.1%}"


def number(value: float | None, digits: int = 2) -> str:
    """Write a number for a person."""
    return "-" if value is None else f"{value:.{digits}f}"


def _in_words(total: Summary) -> str:
    everything, accepted = total.all.score, total.accepted.score
    if not everything.labelled:
        return f"No bib is labelled; {everything.wrong} were read, {accepted.wrong} of them accepted."
    waiting = everything.right - accepted.right
    missed = everything.labelled - everything.right
    return (
        f"Of {everything.labelled} labelled bibs, {accepted.right} are accepted, {waiting} wait in review and {missed} "
        f"are missed. Of {accepted.right + accepted.wrong} accepted numbers, {accepted.wrong} are wrong."
    )


def _tiles(total: Summary, setup: Setup) -> str:
    tiles = (
        ("Accepted: right", percent(total.accepted.precision.value), interval(total.accepted.precision)),
        ("Accepted: share of all bibs", percent(total.accepted.recall.value), interval(total.accepted.recall)),
        ("F over all readings", percent(total.all.f.value), interval(total.all.f)),
        ("Bibs among the candidates", percent(total.candidate_recall), "the most that any judge can reach"),
        ("Reviews a photo", number(total.reviews_per_photo), f"{total.reviews} in all"),
        ("Seconds a photo", number(setup.seconds_per_photo), "reading, on this machine"),
    )
    return "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>'
        for name, value, note in tiles
    )


def _races(total: Summary, races: dict[str, Summary]) -> str:
    rows = [("all photos", total)] if len(races) == 1 else [*races.items(), ("all photos", total)]
    head = ("race", "photos", "bibs", "accepted: precision", "accepted: recall", "all: precision", "all: recall",
            "all: F", "candidates", "reviews a photo")  # fmt: skip
    body = []
    for name, each in rows:
        estimates = (each.accepted.precision, each.accepted.recall, each.all.precision, each.all.recall, each.all.f)
        cells = [f"<th>{escape(name or 'no race named')}</th>", _cell(str(each.photos))]
        cells += [_cell(str(each.all.score.labelled))]
        cells += [_cell(percent(estimate.value), interval(estimate)) for estimate in estimates]
        cells += [_cell(percent(each.candidate_recall)), _cell(number(each.reviews_per_photo))]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return _table(head, body)


def _sweep_table(thresholds: Iterable[Threshold], photos: int, accept_at: float) -> str:
    body = []
    for each in thresholds:
        score = each.accepted
        cells = (f"{each.accept_at:g}", str(score.right), str(score.wrong), percent(score.precision),
                 percent(score.recall), number(each.reviews / photos if photos else None))  # fmt: skip
        here = ' class="here"' if each.accept_at == accept_at else ""
        body.append(f"<tr{here}>{''.join(map(_cell, cells))}</tr>")
    return _table(("accept_at", "accepted, right", "accepted, wrong", "precision", "recall", "reviews a photo"), body)


def _reliability_table(bins: Iterable[Bin]) -> str:
    body = [
        "<tr>"
        + _cell(f"{each.low:g} to {each.high:g}")
        + _cell(str(each.readings))
        + _cell(percent(each.mean_probability))
        + _cell(percent(each.share_right))
        + "</tr>"
        for each in bins
    ]
    return _table(("probability", "readings", "mean probability", "share right"), body)


def _table(head: Iterable[str], rows: Iterable[str]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _cell(text: str, note: str = "") -> str:
    return f"<td>{escape(text)}{f'<small>{escape(note)}</small>' if note else ''}</td>"


def _failed(judged: Iterable[JudgedPhoto]) -> str:
    rows = [
        f"<li><b>{escape(each.photo.file)}</b> {escape(each.read.error)}</li>"
        for each in judged
        if each.read.error is not None
    ]
    heading = f"<h2>Photos that could not be read <em>{len(rows)}, counted as read with no bib</em></h2>"
    return f"{heading}<ul>{''.join(rows)}</ul>" if rows else ""


# Plots


def _axes(x_label: str, y_label: str, x_ticks: Iterable[tuple[float, str]], content: str, y_low: float = 0.0) -> str:
    """Draw a plot from 0 to 1 in x, and from `y_low` to 1 in y."""
    (width, height), (left, top, right, bottom) = _PLOT, _INSET
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_label)} by {escape(x_label)}">']
    for step in range(6):
        value = y_low + (1 - y_low) * step / 5
        y = _y(value, y_low)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.0%}</text>')
    for x, text in x_ticks:
        place = f'x="{_x(x):.1f}" y="{height - bottom + 16}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{escape(text)}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text class="axis" transform="translate(11 {(top + height - bottom) / 2}) rotate(-90)"')
    parts.append(f' text-anchor="middle">{escape(y_label)}</text>')
    return "".join((*parts, content, "</svg>"))


def _x(share: float) -> float:
    return _INSET[0] + share * (_PLOT[0] - _INSET[0] - _INSET[2])


def _y(value: float, low: float = 0.0) -> float:
    return _PLOT[1] - _INSET[3] - (value - low) / (1 - low) * (_PLOT[1] - _INSET[1] - _INSET[3])


def _nines(accept_at: float) -> float:
    """Return where a threshold lies on the axis: .9, .99 and .999 are equally far apart."""
    low, high = 0.5, max(evaluation.THRESHOLDS)
    nines = [-math.log10(1 - min(max(value, low), high)) for value in (accept_at, low, high)]
    return (nines[0] - nines[1]) / (nines[2] - nines[1])


def _sweep_plot(thresholds: Sequence[Threshold], accept_at: float) -> str:
    series = (
        ("precision", _GREEN, [(each.accept_at, each.accepted.precision) for each in thresholds]),
        ("recall", _BLUE, [(each.accept_at, each.accepted.recall) for each in thresholds]),
    )
    values = [value for *_, points in series for _, value in points if value is not None]
    least = min(values, default=0.0)
    low = max(each for each in _FLOORS if each <= least)
    x = _x(_nines(accept_at))
    parts = [f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_y(1)}" y2="{_y(low, low)}"/>']
    for row, (name, colour, points) in enumerate(series):
        known = [(_x(_nines(at)), _y(value, low)) for at, value in points if value is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in known]
        y = _y(low, low) - 28 + 16 * row
        parts.append(f'<rect x="{_x(0) + 8}" y="{y - 9:.1f}" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(f'<text class="axis" x="{_x(0) + 26}" y="{y + 1:.1f}">{name}</text>')
    ticks = [(_nines(at), f"{at:g}") for at in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)]
    return _axes("accept_at (dashed: as set)", "of accepted readings", ticks, "".join(parts), low)


def _reliability_plot(bins: Sequence[Bin]) -> str:
    parts = [f'<line class="mark" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>']
    most = max((each.readings for each in bins), default=1)
    for each in bins:
        x, y = _x(each.mean_probability), _y(each.share_right)
        radius = 4 + 10 * math.sqrt(each.readings / most)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_BLUE}" fill-opacity=".55"/>')
        side = -radius - 4 if each.mean_probability > 0.5 else radius + 4  # noqa: PLR2004
        anchor = "end" if side < 0 else "start"
        text = f'<text class="tick" x="{x + side:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{each.readings}</text>'
        parts.append(text)
    ticks = [(step / 5, f"{step / 5:.0%}") for step in range(6)]
    return _axes("probability of the reading (dashed: perfectly calibrated)", "share right", ticks, "".join(parts))


# Mistakes


def _by_photo(misses: Iterable[Miss]) -> list[Miss]:
    return sorted(misses, key=lambda each: (each.photo.race, each.photo.file))


def _section(title: str, note: str, found: Sequence[T], card: Callable[[T], str]) -> str:
    cards = "".join(map(card, found)) or "<p>None.</p>"
    return f'<h2>{escape(title)} <em>{len(found)}: {escape(note)}</em></h2><div class="cards">{cards}</div>'


def _wrong(each: WrongReading, pictures: _Pictures) -> str:
    reading = each.reading
    facts = [f"{reading.verdict.value}, probability {reading.probability:.4f}"]
    facts += [f"read as {reading.read_as}"] if reading.read_as not in {"", reading.bib} else []
    facts += [f"like {each.nearest}, which is labelled"] if each.nearest else []
    facts += [str(reason) for reason in reading.reasons] or ["nothing spoke against it"]
    colour = _RED if reading.verdict is Verdict.ACCEPTED else _GREY
    return _card(pictures.of(each.photo, reading.box, colour), reading.bib, each.photo, facts)


def _miss(each: Miss, pictures: _Pictures) -> str:
    box = each.label.box or next((near.candidate.box for near in each.nearest if near.candidate.box), None)
    facts = [f"in the notes: {' or '.join(each.label.seen)}"] if each.label.seen else []
    facts += [_seen(near) for near in each.nearest] or ["nothing like it was seen"]
    return _card(pictures.of(each.photo, box, _BLUE), each.label.bib, each.photo, facts)


def _seen(each: Explanation) -> str:
    reasons = f": {'; '.join(each.reasons)}" if each.reasons else ""
    return f"{each.candidate.text} ({each.candidate.score:.3f}) {each.verdict}{reasons}"


def _card(picture: str, bib: str, photo: LabelledPhoto, facts: Iterable[str]) -> str:
    where = f"{photo.race}: {photo.file}" if photo.race else photo.file
    lines = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    caption = f"<b>{escape(bib)}</b> <i>{escape(where)}</i><ul>{lines}</ul>"
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


class _Pictures:
    """Pictures of places in photos. Keeps the last photo: mistakes of one photo often follow each other."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._last: tuple[LabelledPhoto, Photo | None] | None = None

    def of(self, photo: LabelledPhoto, box: Box | None, colour: str) -> str:
        """Return an <img> of a place in a photo, with a box around it; of the whole photo if no place is known."""
        opened = self._open(photo)
        if opened is None:
            return '<div class="none">the photo could not be opened</div>'
        image = opened.image
        part = _surroundings(box, image.size) if box else (0, 0, *image.size)
        cut = image.crop(part)
        factor = min(_CROP[0] / cut.width, _CROP[1] / cut.height, _ENLARGED)
        cut = images.resize(cut, images.scaled_size(cut.size, factor))
        if box:
            place = box.moved(-part[0], -part[1]).scaled(factor)
            ImageDraw.Draw(cut).rectangle((place.x1 - 3, place.y1 - 3, place.x2 + 3, place.y2 + 3), None, colour, 2)
        return f'<img src="data:image/jpeg;base64,{_jpeg(cut)}" width="{cut.width}" height="{cut.height}" alt="">'

    def _open(self, photo: LabelledPhoto) -> Photo | None:
        if self._last is None or self._last[0] is not photo:
            try:
                self._last = photo, images.open_photo(photo.path, limits=self._limits)
            except PhotoError:
                self._last = photo, None
        return self._last[1]


def _surroundings(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the part of a photo around a box, with a margin, inside the photo."""
    across, down = _MARGIN * (box.x2 - box.x1), 2 * _MARGIN * (box.y2 - box.y1)
    left, top = max(0, int(box.x1 - across)), max(0, int(box.y1 - down))
    right, bottom = min(size[0], math.ceil(box.x2 + across)), min(size[1], math.ceil(box.y2 + down))
    return (left, top, right, bottom) if left < right and top < bottom else (0, 0, *size)


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #202124; background: #f6f7f8; }
body { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.7rem; margin: 0; }
h2 { font-size: 1.2rem; margin: 40px 0 12px; }
h2 em { font-weight: 400; font-style: normal; color: #6b6f76; font-size: .95rem; margin-left: .4em; }
p { margin: 8px 0; }
small, .setup { color: #6b6f76; }
.words { font-size: 1.1rem; margin: 14px 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; }
.tile, .panel, figure { background: #fff; border: 1px solid #e0e3e7; border-radius: 10px; }
.tile { padding: 12px 14px; display: flex; flex-direction: column; }
.tile b { font-size: 1.75rem; line-height: 1.25; }
.tile span { font-size: .9rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 16px; }
.panel { padding: 14px; min-width: 0; }
.panel h3 { margin: 0 0 6px; font-size: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid #e8eaed; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
thead th { color: #6b6f76; font-weight: 500; vertical-align: bottom; }
td small { display: block; white-space: nowrap; font-size: .78rem; }
tr.here td { background: #eef4fc; font-weight: 600; }
details { margin-top: 8px; } summary { cursor: pointer; color: #1a5fb4; }
svg { width: 100%; height: auto; display: block; }
.grid { stroke: #e8eaed; } .mark { stroke: #9aa0a6; stroke-dasharray: 4 4; }
.tick { font-size: 11px; fill: #6b6f76; } .axis { font-size: 12px; fill: #202124; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 14px; align-items: start; }
figure { margin: 0; overflow: hidden; break-inside: avoid; }
figure img { display: block; width: 100%; height: 200px; object-fit: contain; background: #2b2d30; }
.none { height: 200px; display: grid; place-items: center; background: #e8eaed; color: #6b6f76; }
figcaption { padding: 10px 12px 12px; font-size: .9rem; overflow-wrap: anywhere; }
figcaption b { font-size: 1.15rem; } figcaption i { font-style: normal; color: #6b6f76; }
figcaption ul { margin: 6px 0 0; padding-left: 18px; }
@media print { :root { background: #fff; } body { max-width: none; } }
</style>
</head>
<body>
<h1>How well are the bibs read?</h1>
<p class="setup">$setup</p>
<p class="words">$words</p>
<div class="tiles">$tiles</div>
<h2>By race</h2>
<div class="panel">$races</div>
<p><small>Below each figure: its 95 % interval, a bootstrap over photos. With no mistake in few photos it is too narrow:
of 60 accepted numbers without a wrong one, up to one in 20 may still be wrong.</small></p>
<h2>Where to set <code>accept_at</code>, and whether probabilities can be believed</h2>
<div class="plots">
<div class="panel"><h3>Accepted readings, by accept_at</h3>$sweep_plot
<details><summary>Figures</summary>$sweep_table</details></div>
<div class="panel"><h3>Reliability of all readings</h3>$reliability_plot
<details><summary>Figures</summary>$reliability_table</details></div>
</div>
$mistakes
$failed
</body>
</html>
""")
