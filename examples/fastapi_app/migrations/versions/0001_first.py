"""The tables of the notes, and one note, so that there is something to read."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    notebooks = op.create_table(
        "notebook",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
    )
    notes = op.create_table(
        "note",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("notebook_id", sa.Integer, sa.ForeignKey("notebook.id"), nullable=False),
        sa.Column("text", sa.String, nullable=False),
    )
    op.bulk_insert(notebooks, [{"name": "house"}])
    op.bulk_insert(notes, [{"notebook_id": 1, "text": "water the plants"}])


def downgrade() -> None:
    """Drop them."""
    for name in ("note", "notebook"):
        op.drop_table(name)
