"""The library's tables, and three books, so that there is something to read."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    authors = op.create_table(
        "authors",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
    )
    books = op.create_table(
        "books",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("author_id", sa.Integer, sa.ForeignKey("authors.id"), nullable=False),
        sa.Column("lent", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_table(
        "loans",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("book_id", sa.Integer, sa.ForeignKey("books.id"), nullable=False),
        sa.Column("reader", sa.String, nullable=False),
        sa.Column("since", sa.DateTime, nullable=False, server_default=sa.func.now()),
    )
    op.bulk_insert(authors, [{"name": "Mary Shelley"}, {"name": "Jules Verne"}])
    op.bulk_insert(
        books,
        [
            {"title": "Frankenstein", "author_id": 1},
            {"title": "The Last Man", "author_id": 1},
            {"title": "The Mysterious Island", "author_id": 2},
        ],
    )


def downgrade() -> None:
    """Drop them."""
    for name in ("loans", "books", "authors"):
        op.drop_table(name)
