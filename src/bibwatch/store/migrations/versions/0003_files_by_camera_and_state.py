"""Find a camera's files by state, and the oldest file in a state, without reading every file."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("ix_files_camera_state", "files", ["camera", "state"])
    op.create_index("ix_files_state_updated_at", "files", ["state", "updated_at"])
