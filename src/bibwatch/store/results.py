"""Images, results and readings: what was read, once for each image and reader.

Knows how an answer becomes rows, and which of several answers is the one to show. Every function works in the
caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, exists, or_, select, update

from bibwatch.images import Photo
from bibwatch.stages.base import Outcome, Reading
from bibwatch.store.records import Claim, Finished, Reader
from bibwatch.store.schema import files, images, insert_into, iso, now, path_to_text, readings, results


def record(connection: Connection, reader: Reader, item: Finished) -> int | None:
    """Record the image of one file and what was read in it; return the image's id, None if it is no image."""
    if item.photo is None:
        return None
    image_id = _image(connection, item.claim, item.photo)
    if item.outcome and not item.outcome.error:
        _result(connection, reader, image_id, item.outcome, item.model)
    return image_id


def known(connection: Connection, readers: Iterable[Reader], sha256s: Collection[str]) -> set[str]:
    """Return those of the images that any of the readers has a result for."""
    query = select(images.c.sha256).join(results, results.c.image_id == images.c.id)
    return set(connection.execute(query.where(images.c.sha256.in_(sha256s), or_(*map(_by, readers)))).scalars())


def has_result(readers: Iterable[Reader]) -> Any:
    """Whether any of the readers has a result for a file's image, as a condition on `files`."""
    return exists().where(results.c.image_id == files.c.image_id, or_(*map(_by, readers)))


def was_read() -> Any:
    """Whether any reader has a result for a file's image, as a condition on `files`."""
    return exists().where(results.c.image_id == files.c.image_id)


def put_forward(connection: Connection, reader: Reader) -> None:
    """Where an image has results by several sets of options of this preset, show the one now in force."""
    mine: Table = results.alias("mine")  # type: ignore[assignment]
    both = exists().where(
        mine.c.image_id == results.c.image_id,
        mine.c.stage == reader.stage,
        mine.c.preset == reader.preset,
        mine.c.options_hash == reader.options_hash,
    )
    same = and_(results.c.stage == reader.stage, results.c.preset == reader.preset)
    superseded = results.c.options_hash != reader.options_hash
    connection.execute(
        update(results).where(same, both, results.c.superseded != superseded).values(superseded=superseded)
    )


# Written once: putting a statement together takes longer than the database takes for it.
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


def _result(connection: Connection, reader: Reader, image_id: int, outcome: Outcome, model: str) -> None:
    result = {
        "image_id": image_id,
        **reader._asdict(),
        "model": model,
        "device": outcome.device,
        "seconds": outcome.seconds,
        "output_json": None if outcome.output is None else json.dumps(outcome.output),
        "processed_at": now(),
    }
    result_id = connection.execute(_add_result(connection.dialect.name), result).scalar()
    if result_id is None:
        return
    others = {"of_image": image_id, "this": result_id, "of_stage": reader.stage, "of_preset": reader.preset}
    connection.execute(_SUPERSEDE_OTHERS, others)
    if rows := [_row(result_id, reading) for reading in outcome.readings]:
        connection.execute(_ADD_READINGS, rows)


def _row(result_id: int, reading: Reading) -> dict[str, Any]:
    box = vars(reading.box) if reading.box else dict.fromkeys(("x1", "y1", "x2", "y2"))
    return {
        "result_id": result_id,
        "bib": reading.bib,
        "confidence": reading.confidence,
        "verdict": reading.verdict,
        "model": reading.model,
        **box,
    }


def _by(reader: Reader) -> Any:
    return and_(
        results.c.stage == reader.stage,
        results.c.preset == reader.preset,
        results.c.options_hash == reader.options_hash,
    )
