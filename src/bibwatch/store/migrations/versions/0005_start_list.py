"""The start list, and what it says of each reading. Results stay valid; they are judged again once there is a list."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("readings", sa.Column("entry", sa.String(), nullable=True))
    op.add_column("readings", sa.Column("entry_match", sa.String(), nullable=True))
    op.add_column("readings", sa.Column("near_json", sa.Text(), nullable=True))
    op.create_table(
        "start_list",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("imported_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "start_list_entries",
        sa.Column("bib", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("fields_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("bib"),
    )
