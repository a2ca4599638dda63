"""The current tables and SQL views; migrations/ upgrades older databases to them.

Times are ISO-8601 UTC text with milliseconds, so that they sort, and read the same in SQLite and PostgreSQL.
Tables may change from release to release; the views are the contract (docs/sql.md).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

metadata = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite autoincrements only an INTEGER key


def _box() -> list[Column[float]]:
    """Return the columns of a box: pixels of the upright image, or NULL."""
    return [Column(name, Float) for name in ("x1", "y1", "x2", "y2")]


cameras = Table(
    "cameras",
    metadata,
    Column("name", String, primary_key=True),
    Column("path", Text, nullable=False),
    Column("state", String, nullable=False),  # watching, polling, missing, unreadable
    Column("error", Text),
    Column("updated_at", String, nullable=False),
)

images = Table(
    "images",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("camera", String, nullable=False),  # where it first came from
    Column("path", Text, nullable=False),
    Column("width", Integer, nullable=False),  # pixels, upright
    Column("height", Integer, nullable=False),
    Column("captured_at", String),
    Column("received_at", String, nullable=False),
)

files = Table(
    "files",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("camera", String, nullable=False),
    Column("path", Text, nullable=False),
    Column("inode", Text, nullable=False),  # text: a 64-bit unsigned number fits no SQL integer
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("ctime_ns", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
    Column("image_id", _Id, ForeignKey("images.id"), index=True),
    Column("first_seen_at", String, nullable=False),
    Column("updated_at", String, nullable=False),
    UniqueConstraint("camera", "path"),
    Index("ix_files_state_priority_id", "state", "priority", "id"),
    Index("ix_files_camera_state", "camera", "state"),
    Index("ix_files_state_updated_at", "state", "updated_at"),
)

results = Table(
    "results",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("image_id", _Id, ForeignKey("images.id"), nullable=False),
    Column("stage", String, nullable=False),
    Column("preset", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("superseded", Boolean, nullable=False, server_default=false()),  # by other options of the same preset
    Column("model", String, nullable=False),
    Column("device", String, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("output_json", Text),
    Column("looks_json", Text),  # all looks taken, including those that found nothing
    Column("candidates_cut", Integer, nullable=False, server_default=text("0")),
    Column("clear_numbers", Text),  # those that show the form of the race, separated by spaces
    Column("judged_by", String),  # fingerprint of the judge; NULL: not judged since an earlier version
    Column("processed_at", String, nullable=False),
    UniqueConstraint("image_id", "stage", "preset", "fingerprint"),
    Index("ux_results_image_stage_fingerprint", "image_id", "stage", "fingerprint", unique=True),
    Index("ix_results_judged_by", "judged_by"),
)

candidates = Table(
    "result_candidates",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("result_id", _Id, ForeignKey("results.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("source", String, nullable=False),
    Column("look", String, nullable=False),
    Column("model", String),  # where it is another than that of the result
    *_box(),
    Column("edge_distance", Float),
    Column("alternatives_json", Text),
    Column("odds_json", Text),
    Column("glyphs_json", Text),  # of a line of text
    Column("beside", Text),
    Column("about", Text),
    Column("doubt", Text),
    Column("rejection", Text),  # why it is no bib; NULL where it supports a reading
)

readings = Table(
    "readings",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("result_id", _Id, ForeignKey("results.id"), nullable=False, index=True),
    Column("bib", String, nullable=False, index=True),
    Column("confidence", Float, nullable=False),
    Column("verdict", String, nullable=False),
    Column("model", String),  # where it is another than that of the result
    *_box(),
    Column("reasons", Text, nullable=False, server_default=text("''")),
    Column("read_as", Text),
    Column("entry", String),  # of the start list, as printed: the bib itself or the nearest
    Column("entry_match", String),  # exact, near, unknown; NULL without a start list
    Column("near_json", Text),  # the entries it may be, each with how it differs, the likeliest first
)

# The start list in force: one row, and its entries.
start_list = Table(
    "start_list",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1
    Column("fingerprint", String, nullable=False),  # of the bibs
    Column("source", Text, nullable=False),  # the file
    Column("imported_at", String, nullable=False),
)

start_list_entries = Table(
    "start_list_entries",
    metadata,
    Column("bib", String, primary_key=True),  # as printed
    Column("position", Integer, nullable=False),  # in the file
    Column("fields_json", Text, nullable=False),
)

# What people said of the bibs of an image. Machines add no row and change none.
decisions = Table(
    "decisions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("image_id", _Id, ForeignKey("images.id"), nullable=False),
    Column("bib", String, nullable=False),  # as it was judged, or as it was added
    Column("action", String, nullable=False),  # accept, reject, correct, add
    Column("corrected_to", String),
    *_box(),
    Column("decided_by", String, nullable=False),
    Column("decided_at", String, nullable=False),
    Column("note", Text),
    Column("superseded", Boolean, nullable=False, server_default=false()),  # by a later decision about the same bib
    Index("ix_decisions_image_id_bib", "image_id", "bib"),
)

EARLIER = "earlier:"  # prefix of fingerprints from before fingerprints left out defaults

# One row for each image, and for each file that is not an image yet: an image's state is that of its
# oldest file, and `done` when no file has its bytes any more (it was overwritten).
VIEWS: dict[str, str] = {
    "bib_results": """
        SELECT i.id AS image_id, i.camera, i.path, i.sha256, i.captured_at, i.received_at,
               COALESCE(d.corrected_to, CASE b.entry_match WHEN 'exact' THEN b.entry END, b.bib) AS bib, b.confidence,
               CASE d.action WHEN 'reject' THEN 'rejected' WHEN 'accept' THEN 'accepted' WHEN 'add' THEN 'accepted'
                    WHEN 'correct' THEN 'accepted' ELSE b.verdict END AS verdict,
               b.x1, b.y1, b.x2, b.y2,
               r.stage, r.preset, COALESCE(b.model, r.model) AS model, r.device, r.processed_at,
               b.id AS reading_id, COALESCE(b.read_as, b.bib) AS read_as, b.reasons,
               d.decided_by, d.decided_at, i.width, i.height,
               CASE WHEN d.corrected_to IS NULL THEN b.entry_match WHEN e.bib IS NOT NULL THEN 'exact'
                    WHEN l.id IS NOT NULL THEN 'unknown' END AS entry_match,
               CASE WHEN d.corrected_to IS NULL THEN b.entry ELSE e.bib END AS entry
        FROM readings b
        JOIN results r ON r.id = b.result_id AND NOT r.superseded
        JOIN images i ON i.id = r.image_id
        LEFT JOIN decisions d ON d.image_id = i.id AND d.bib = b.bib AND NOT d.superseded
        LEFT JOIN start_list_entries e ON e.bib = d.corrected_to
        LEFT JOIN start_list l ON l.id = 1
        UNION ALL
        SELECT i.id, i.camera, i.path, i.sha256, i.captured_at, i.received_at,
               COALESCE(d.corrected_to, d.bib), 1.0, 'accepted', d.x1, d.y1, d.x2, d.y2,
               'bib_number', NULL, NULL, NULL, d.decided_at,
               NULL, d.bib, '', d.decided_by, d.decided_at, i.width, i.height,
               CASE WHEN e.bib IS NOT NULL THEN 'exact' WHEN l.id IS NOT NULL THEN 'unknown' END, e.bib
        FROM decisions d
        JOIN images i ON i.id = d.image_id
        LEFT JOIN start_list_entries e ON e.bib = COALESCE(d.corrected_to, d.bib)
        LEFT JOIN start_list l ON l.id = 1
        WHERE d.action <> 'reject' AND NOT d.superseded AND NOT EXISTS (
            SELECT 1 FROM readings b JOIN results r ON r.id = b.result_id AND NOT r.superseded
            WHERE r.image_id = d.image_id AND b.bib = d.bib)
    """,
    "candidates": """
        SELECT r.image_id, i.camera, i.path, r.stage, r.preset, c.text, c.score, c.look, c.source,
               COALESCE(c.model, r.model) AS model, c.x1, c.y1, c.x2, c.y2, c.edge_distance,
               c.alternatives_json, c.beside, c.about, c.doubt, c.rejection AS reason, r.processed_at,
               c.odds_json, c.glyphs_json
        FROM result_candidates c
        JOIN results r ON r.id = c.result_id AND NOT r.superseded
        JOIN images i ON i.id = r.image_id
    """,
    "entries": """
        SELECT e.bib, e.position, e.fields_json, l.source, l.imported_at
        FROM start_list_entries e CROSS JOIN start_list l
    """,
    "missing": """
        SELECT e.bib, e.position, e.fields_json,
               COALESCE(s.suggestion, 1) AS suggestion, s.near_bib, s.near_kind, s.verdict, s.confidence,
               s.image_id, s.camera, s.path, s.seen_at
        FROM start_list_entries e
        LEFT JOIN (
            SELECT CAST(n.entry AS TEXT) AS entry,  -- without a type SQLite would not index it
                   n.near_bib, n.near_kind, n.verdict, n.confidence, n.image_id, n.camera, n.path, n.seen_at,
                   ROW_NUMBER() OVER (PARTITION BY n.entry ORDER BY
                       CASE n.near_kind WHEN 'exact' THEN 0 ELSE 1 END, n.confidence DESC, n.image_id, n.near_bib
                   ) AS suggestion
            FROM (
                SELECT b.entry, b.bib AS near_bib, 'exact' AS near_kind, b.verdict, b.confidence,
                       b.image_id, b.camera, b.path, COALESCE(b.captured_at, b.received_at) AS seen_at
                FROM bib_results b WHERE b.entry_match = 'exact' AND b.verdict = 'review'
                UNION ALL
                SELECT k.key, b.bib, k.value, b.verdict, b.confidence,
                       b.image_id, b.camera, b.path, COALESCE(b.captured_at, b.received_at)
                FROM readings q
                JOIN bib_results b ON b.reading_id = q.id AND b.decided_at IS NULL
                CROSS JOIN json_each(q.near_json) k
                WHERE q.near_json IS NOT NULL
                UNION ALL
                SELECT x.bib, c.text, 'exact', 'candidate', c.score,
                       c.image_id, c.camera, c.path, COALESCE(i.captured_at, i.received_at)
                FROM candidates c
                JOIN images i ON i.id = c.image_id
                JOIN start_list_entries x ON x.bib = c.text
                WHERE c.reason IS NOT NULL
            ) n
        ) s ON s.entry = e.bib
        WHERE LTRIM(e.bib, '0') NOT IN (SELECT LTRIM(b.bib, '0') FROM bib_results b WHERE b.verdict = 'accepted')
    """,
    "image_status": """
        SELECT i.id AS image_id, i.camera, i.path, COALESCE(f.state, 'done') AS state,
               COALESCE(f.attempts, 0) AS attempts, f.error,
               i.received_at AS first_seen_at, COALESCE(f.updated_at, i.received_at) AS updated_at
        FROM images i
        LEFT JOIN (SELECT image_id, MIN(id) AS file_id FROM files WHERE image_id IS NOT NULL GROUP BY image_id) o
               ON o.image_id = i.id
        LEFT JOIN files f ON f.id = o.file_id
        UNION ALL
        SELECT f.image_id, f.camera, f.path, f.state, f.attempts, f.error, f.first_seen_at, f.updated_at
        FROM files f WHERE f.image_id IS NULL
    """,
    "file_status": """
        SELECT f.camera, f.path, f.state, f.attempts, f.error, f.image_id, f.size, f.first_seen_at, f.updated_at
        FROM files f
    """,
    "stage_outputs": """
        SELECT r.image_id, i.camera, i.path, r.stage, r.preset, r.model, r.device, r.output_json, r.processed_at
        FROM results r
        JOIN images i ON i.id = r.image_id
        WHERE r.output_json IS NOT NULL AND NOT r.superseded
    """,
}


def view(name: str, dialect: str) -> str:
    """Return the query of a view; what is one text here has another name in each dialect."""
    query = VIEWS[name]
    return query.replace("json_each(q.near_json)", _JSON_EACH) if dialect == "postgresql" else query


_JSON_EACH = "json_each_text(CAST(q.near_json AS json))"


def insert_into(dialect: str, table: Table) -> Any:
    """Return an insert with `on_conflict_do_...`, which SQLAlchemy provides per dialect."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def iso(moment: datetime) -> str:
    """Return a moment as the database stores it: `2026-11-21T10:00:05.042Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> str:
    """Return the current time as the database stores it."""
    return iso(datetime.now(UTC))


# Python represents file names that are not UTF-8 with lone surrogates, which no database stores. They are mapped one
# to one to a private-use plane that file names do not use.
_TO_TEXT = {code: code + 0x100000 for code in range(0xDC80, 0xDD00)}
_TO_PATH = {there: here for here, there in _TO_TEXT.items()}


def path_to_text(path: str) -> str:
    """Return a path as text that any database stores, whatever bytes are in it."""
    return path if path.isascii() else path.translate(_TO_TEXT)  # most are, and translating is slow


def text_to_path(stored: str) -> str:
    """Return the path that `path_to_text` stored."""
    return stored if stored.isascii() else stored.translate(_TO_PATH)
