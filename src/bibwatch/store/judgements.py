"""Storage for re-judging: loads candidates, records readings.

Knows rows. Does not judge, opens no photo, and never touches a decision.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, or_, select, update

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Glyphs, Look, Source
from bibwatch.judging import Judgement
from bibwatch.store.database import Database
from bibwatch.store.results import reading_row
from bibwatch.store.schema import candidates, readings, results

_PAGE = 500  # results in one transaction

_CANDIDATES = select(
    candidates.c.result_id, candidates.c.id, candidates.c.text, candidates.c.score, candidates.c.source,
    candidates.c.look, candidates.c.model, candidates.c.edge_distance, candidates.c.alternatives_json,
    candidates.c.beside, candidates.c.about, candidates.c.doubt, candidates.c.rejection,
    candidates.c.odds_json, candidates.c.glyphs_json,
    candidates.c.x1, candidates.c.y1, candidates.c.x2, candidates.c.y2,
).order_by(candidates.c.result_id, candidates.c.id)  # fmt: skip
_REJECTION = 12  # its place in that row
_READING = (
    *("bib", "confidence", "verdict", "reasons", "read_as", "model", "x1", "y1", "x2", "y2"),
    *("entry", "entry_match", "near_json"),
)
_READINGS = select(readings.c.result_id, *(readings.c[name] for name in _READING)).order_by(
    readings.c.result_id, readings.c.id
)
_SET_REJECTION = (
    update(candidates).where(candidates.c.id == bindparam("of_candidate")).values(rejection=bindparam("to"))
)


class Case(NamedTuple):
    """The candidates of one result, and their last judgement."""

    result_id: int
    ids: list[int]  # of the candidates' rows
    candidates: list[Candidate]
    rejections: list[str | None]
    readings: list[tuple[Any, ...]]


class Judgements:
    """The judgements in one database. Every method raises StoreError when it is unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self) -> int:
        """Count the results that have candidates to judge."""
        query = select(func.count()).select_from(results).where(*_to_judge(None))
        with self._database.query() as connection:
            return int(connection.execute(query).scalar_one())

    def has_any_by(self, fingerprints: Collection[str]) -> bool:
        """Return whether any result was judged last by one of these judges."""
        query = select(results.c.id).where(results.c.judged_by.in_(sorted(fingerprints))).limit(1)
        with self._database.query() as connection:
            return connection.execute(query).first() is not None

    def clear_numbers(self) -> set[str]:
        """Return the numbers that were clear enough to show the form of the race."""
        query = select(results.c.clear_numbers).where(results.c.clear_numbers.is_not(None)).distinct()
        with self._database.query() as connection:
            return {bib for found in connection.execute(query).scalars() for bib in str(found).split()}

    def page(self, after: int, *, other_than: str | None = None) -> list[Case]:
        """Return the next page of results with candidates, by id; empty when there are no more.

        With `other_than`, only those that were not judged by the judge with that fingerprint.
        """
        chosen = select(results.c.id).where(results.c.id > after, *_to_judge(other_than))
        with self._database.query() as connection:
            ids = list(connection.execute(chosen.order_by(results.c.id).limit(_PAGE)).scalars())
            return _cases(connection, ids) if ids else []

    def record(self, judged: Iterable[tuple[Case, Judgement]], judged_by: str) -> int:
        """Record the judgements of a page; return for how many results the readings changed."""
        changed: dict[int, list[dict[str, Any]]] = {}
        rejections: list[dict[str, Any]] = []
        ids: list[int] = []
        for case, judgement in judged:
            ids.append(case.result_id)
            rows = [reading_row(case.result_id, reading) for reading in judgement.readings]
            if [tuple(row[name] for name in _READING) for row in rows] != case.readings:
                changed[case.result_id] = rows
            now_and_before = zip(case.ids, judgement.rejections, case.rejections, strict=True)
            rejections += [{"of_candidate": each, "to": now} for each, now, before in now_and_before if now != before]
        with self._database.write() as connection:
            if rejections:
                connection.execute(_SET_REJECTION, rejections)
            if changed:
                connection.execute(delete(readings).where(readings.c.result_id.in_(list(changed))))
                if rows := [row for each in changed.values() for row in each]:
                    connection.execute(readings.insert(), rows)
            connection.execute(update(results).where(results.c.id.in_(ids)).values(judged_by=judged_by))
        return len(changed)


def _to_judge(other_than: str | None) -> list[Any]:
    of_bibs = results.c.output_json.is_(None)
    if other_than is None:
        return [of_bibs]
    return [of_bibs, or_(results.c.judged_by != other_than, results.c.judged_by.is_(None))]


def _cases(connection: Connection, ids: list[int]) -> list[Case]:
    seen = _by_result(connection, _CANDIDATES.where(candidates.c.result_id.between(ids[0], ids[-1])))
    read = _by_result(connection, _READINGS.where(readings.c.result_id.between(ids[0], ids[-1])))
    return [
        Case(
            each,
            [row[1] for row in seen.get(each, ())],
            [_candidate(row) for row in seen.get(each, ())],
            [row[_REJECTION] for row in seen.get(each, ())],
            [row[1:] for row in read.get(each, ())],
        )
        for each in ids
    ]


def _by_result(connection: Connection, query: Any) -> Mapping[int, list[tuple[Any, ...]]]:
    rows = map(tuple, connection.execute(query).all())
    return {result_id: list(group) for result_id, group in groupby(rows, key=lambda row: int(row[0]))}


def _candidate(row: tuple[Any, ...]) -> Candidate:
    _, _, text, score, source, look, model, edge_distance, alternatives, beside, about, doubt, _, odds, glyphs, *box = (
        row
    )
    return Candidate(
        text=text,
        score=score,
        box=Box(*box) if box[0] is not None else None,
        source=Source(source),
        look=Look(look),
        model=model,
        edge_distance=edge_distance,
        alternatives=tuple(json.loads(alternatives)) if alternatives else (),
        odds=tuple(json.loads(odds)) if odds else (),
        glyphs=Glyphs(*json.loads(glyphs)) if glyphs else None,
        beside=beside,
        about=about,
        doubt=doubt,
    )
