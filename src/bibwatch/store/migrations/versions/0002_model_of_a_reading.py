"""A reading may have been made by another model than the rest of its result."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("readings", sa.Column("model", sa.String(), nullable=True))
