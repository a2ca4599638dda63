"""Images, results, candidates and readings: one result for each image and recogniser.

Knows how a result becomes rows, and which of several results is shown. Every function works in the caller's
transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, astuple
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, exists, or_, select, update

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate
from bibwatch.domain.readings import Reading
from bibwatch.domain.recogniser import Recogniser
from bibwatch.images import Photo
from bibwatch.store.records import Claim, Finished, Result
from bibwatch.store.schema import (
    EARLIER,
    candidates,
    files,
    images,
    insert_into,
    iso,
    now,
    path_to_text,
    readings,
    results,
)


def record(connection: Connection, recogniser: Recogniser, item: Finished) -> int | None:
    """Record the image of one file and what was recognised in it; return the image's id, None if it is no image."""
    if item.photo is None:
        return None
    image_id = _image(connection, item.claim, item.photo)
    if item.result:
        _result(connection, recogniser, image_id, item.result)
    return image_id


def known(connection: Connection, recognisers: Iterable[Recogniser], sha256s: Collection[str]) -> set[str]:
    """Return those of the images that any of the recognisers has a result for."""
    query = select(images.c.sha256).join(results, results.c.image_id == images.c.id)
    return set(connection.execute(query.where(images.c.sha256.in_(sha256s), or_(*map(_by, recognisers)))).scalars())


def has_result(recognisers: Iterable[Recogniser]) -> Any:
    """Whether any of the recognisers has a result for a file's image, as a condition on `files`."""
    return exists().where(results.c.image_id == files.c.image_id, or_(*map(_by, recognisers)))


def was_read() -> Any:
    """Whether any recogniser has a result for a file's image, as a condition on `files`."""
    return exists().where(results.c.image_id == files.c.image_id)


def adopt(connection: Connection, recogniser: Recogniser) -> None:
    """Attribute results of an earlier version, whose fingerprints were computed differently, to this recogniser."""
    same = and_(results.c.stage == recogniser.stage, results.c.preset == recogniser.preset)
    earlier = and_(same, results.c.fingerprint.startswith(EARLIER), ~results.c.superseded)
    connection.execute(update(results).where(earlier).values(fingerprint=recogniser.fingerprint))


def put_forward(connection: Connection, recogniser: Recogniser) -> None:
    """If an image has results from several sets of options of this preset, show the one with the current options."""
    mine: Table = results.alias("mine")  # type: ignore[assignment]
    both = exists().where(
        mine.c.image_id == results.c.image_id,
        mine.c.stage == recogniser.stage,
        mine.c.fingerprint == recogniser.fingerprint,
    )
    same = and_(results.c.stage == recogniser.stage, results.c.preset == recogniser.preset)
    superseded = results.c.fingerprint != recogniser.fingerprint
    connection.execute(
        update(results).where(same, both, results.c.superseded != superseded).values(superseded=superseded)
    )


def candidate_row(result_id: int, candidate: Candidate, rejection: str | None) -> dict[str, Any]:
    """Return the row of a candidate."""
    return {
        "result_id": result_id,
        "text": candidate.text,
        "score": candidate.score,
        "source": candidate.source,
        "look": candidate.look,
        "model": candidate.model,
        **box_row(candidate.box),
        "edge_distance": candidate.edge_distance,
        "alternatives_json": json.dumps(candidate.alternatives) if candidate.alternatives else None,
        "odds_json": json.dumps(candidate.odds) if candidate.odds else None,
        "glyphs_json": json.dumps(astuple(candidate.glyphs)) if candidate.glyphs else None,
        "beside": candidate.beside,
        "about": candidate.about,
        "doubt": candidate.doubt,
        "rejection": rejection,
    }


def reading_row(result_id: int, reading: Reading) -> dict[str, Any]:
    """Return the row of a reading."""
    return {
        "result_id": result_id,
        "bib": reading.bib,
        "confidence": reading.probability,
        "verdict": reading.verdict,
        "reasons": "; ".join(map(str, reading.reasons)),
        "read_as": reading.read_as,
        "model": reading.model,
        **box_row(reading.box),
        "entry": reading.entry,
        "entry_match": reading.entry_match,
        "near_json": json.dumps({near.entry: near.difference for near in reading.near}) if reading.near else None,
    }


def box_row(box: Box | None) -> dict[str, float | None]:
    """Return the columns of a box."""
    x1, y1, x2, y2 = (box.x1, box.y1, box.x2, box.y2) if box else (None,) * 4
    return {"x1": x1, "y1": y1, "x2": x2, "y2": y2}


# Built once: building a statement takes longer than executing it.
_IMAGE_ID = select(images.c.id).where(images.c.sha256 == bindparam("sha256"))
_SUPERSEDE_OTHERS = (
    update(results)
    .where(
        results.c.image_id == bindparam("of_image"),
        results.c.id != bindparam("this"),
        results.c.stage == bindparam("of_stage"),
        results.c.preset == bindparam("of_preset"),
    )
    .values(superseded=True)
)
_ADD_CANDIDATES = candidates.insert()
_ADD_READINGS = readings.insert()


@cache
def _add_image(dialect: str) -> Any:
    return insert_into(dialect, images).on_conflict_do_nothing(index_elements=["sha256"])


@cache
def _add_result(dialect: str) -> Any:
    return insert_into(dialect, results).on_conflict_do_nothing().returning(results.c.id)


def _image(connection: Connection, claim: Claim, photo: Photo) -> int:
    image = {
        "sha256": photo.sha256,
        "camera": claim.camera,
        "path": path_to_text(claim.path),
        "width": photo.width,
        "height": photo.height,
        "captured_at": iso(photo.captured_at) if photo.captured_at else None,
        "received_at": claim.first_seen_at,
    }
    connection.execute(_add_image(connection.dialect.name), image)
    return int(connection.execute(_IMAGE_ID, {"sha256": photo.sha256}).scalar_one())


def _result(connection: Connection, recogniser: Recogniser, image_id: int, result: Result) -> None:
    row = {
        "image_id": image_id,
        **recogniser._asdict(),
        "model": result.model,
        "device": result.device,
        "seconds": result.seconds,
        "output_json": None if result.output is None else json.dumps(result.output),
        "looks_json": json.dumps([asdict(look) for look in result.looks]) if result.looks else None,
        "candidates_cut": result.cut,
        "clear_numbers": " ".join(sorted(result.clear_numbers)) or None,
        "judged_by": result.judged_by,
        "processed_at": now(),
    }
    result_id = connection.execute(_add_result(connection.dialect.name), row).scalar()
    if result_id is None:
        return
    others = {
        "of_image": image_id,
        "this": result_id,
        "of_stage": recogniser.stage,
        "of_preset": recogniser.preset,
    }
    connection.execute(_SUPERSEDE_OTHERS, others)
    judgement = result.judgement
    rejections = judgement.rejections if judgement else [None] * len(result.candidates)
    seen = zip(result.candidates, rejections, strict=True)
    if rows := [candidate_row(result_id, candidate, rejection) for candidate, rejection in seen]:
        connection.execute(_ADD_CANDIDATES, rows)
    if judgement and judgement.readings:
        connection.execute(_ADD_READINGS, [reading_row(result_id, reading) for reading in judgement.readings])


def _by(recogniser: Recogniser) -> Any:
    return and_(results.c.stage == recogniser.stage, results.c.fingerprint == recogniser.fingerprint)
