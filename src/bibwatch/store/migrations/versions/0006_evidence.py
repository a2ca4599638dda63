"""How lines are printed and how clear they are is kept with candidates, and the numbers that show a race's form."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("result_candidates", sa.Column("glyphs_json", sa.Text(), nullable=True))
    op.add_column("result_candidates", sa.Column("odds_json", sa.Text(), nullable=True))
    op.add_column("results", sa.Column("clear_numbers", sa.Text(), nullable=True))
