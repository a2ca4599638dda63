"""What models saw is kept as candidates, apart from how it is judged; what people say of it is kept as decisions.

Results of earlier versions stay valid: the candidates of each are what its readings say, marked so.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.execute("ALTER TABLE results RENAME COLUMN options_hash TO fingerprint")
    op.execute("UPDATE results SET fingerprint = 'earlier:' || preset || ':' || fingerprint")
    op.add_column("results", sa.Column("looks_json", sa.Text(), nullable=True))
    op.add_column("results", sa.Column("candidates_cut", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("results", sa.Column("judged_by", sa.String(), nullable=True))
    op.create_index("ux_results_image_stage_fingerprint", "results", ["image_id", "stage", "fingerprint"], unique=True)
    op.create_index("ix_results_judged_by", "results", ["judged_by"], unique=False)
    op.add_column("readings", sa.Column("reasons", sa.Text(), server_default="", nullable=False))
    op.add_column("readings", sa.Column("read_as", sa.Text(), nullable=True))
    _create_candidates()
    _create_decisions()
    _carry_readings_over()


def _box() -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Float(), nullable=True) for name in ("x1", "y1", "x2", "y2")]


def _create_candidates() -> None:
    op.create_table(
        "result_candidates",
        sa.Column("id", _id, nullable=False),
        sa.Column("result_id", _id, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("look", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=True),
        *_box(),
        sa.Column("edge_distance", sa.Float(), nullable=True),
        sa.Column("alternatives_json", sa.Text(), nullable=True),
        sa.Column("beside", sa.Text(), nullable=True),
        sa.Column("about", sa.Text(), nullable=True),
        sa.Column("doubt", sa.Text(), nullable=True),
        sa.Column("rejection", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["result_id"], ["results.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_result_candidates_result_id", "result_candidates", ["result_id"], unique=False)


def _create_decisions() -> None:
    op.create_table(
        "decisions",
        sa.Column("id", _id, nullable=False),
        sa.Column("image_id", _id, nullable=False),
        sa.Column("bib", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("corrected_to", sa.String(), nullable=True),
        *_box(),
        sa.Column("decided_by", sa.String(), nullable=False),
        sa.Column("decided_at", sa.String(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("superseded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_decisions_image_id_bib", "decisions", ["image_id", "bib"], unique=False)


def _carry_readings_over() -> None:
    least = "MIN" if op.get_bind().dialect.name == "sqlite" else "LEAST"
    distance = f"{least}(b.x1 / i.width, b.y1 / i.height, (i.width - b.x2) / i.width, (i.height - b.y2) / i.height)"
    # Why a sure reading was sent to review is known only where a rule finds it again (its form, the edge).
    doubt = "CASE WHEN b.verdict = 'review' AND b.confidence >= 0.95 THEN 'sent to review by an earlier version' END"
    place = f"CASE WHEN b.x1 IS NOT NULL THEN CASE WHEN {distance} < 0 THEN 0 ELSE {distance} END END"
    op.execute(
        "INSERT INTO result_candidates"  # noqa: S608  # no value comes from outside
        " (result_id, text, score, source, look, model, x1, y1, x2, y2, edge_distance, doubt)"
        " SELECT b.result_id, b.bib, b.confidence, 'value', 'earlier_version', b.model, b.x1, b.y1, b.x2, b.y2,"
        f" {place}, {doubt}"
        " FROM readings b JOIN results r ON r.id = b.result_id JOIN images i ON i.id = r.image_id"
    )
