"""The library's pages, as JSON."""

from typing import Any

from flask import Blueprint, abort, request
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from .models import Book, Loan, db

pages = Blueprint("pages", __name__)


def _shown(book: Book) -> dict[str, Any]:
    return {"id": book.id, "title": book.title, "author": book.author.name, "lent": book.lent}


@pages.get("/books")
def books() -> dict[str, Any]:
    """All books."""
    found = db.session.scalars(select(Book).options(joinedload(Book.author)).order_by(Book.id))
    return {"books": [_shown(each) for each in found]}


@pages.get("/books/<int:number>")
def book(number: int) -> dict[str, Any]:
    """One book, or 404."""
    return _shown(db.get_or_404(Book, number))


@pages.post("/loans")
def lend() -> tuple[dict[str, Any], int]:
    """Lend ``{"book": <number>, "reader": "<name>"}``; 409 where somebody has it already."""
    wanted = request.get_json()
    with db.session.begin():
        found = db.session.get(Book, wanted["book"], with_for_update=True)
        if found is None:
            abort(404)
        if found.lent:
            return {"error": "lent already"}, 409
        found.lent = True
        loan = Loan(book_id=found.id, reader=wanted["reader"])
        db.session.add(loan)
        db.session.flush()
        number = loan.id
    return {"loan": number}, 201


@pages.delete("/loans/<int:number>")
def take_back(number: int) -> tuple[str, int]:
    """The book of that loan is on the shelf again."""
    with db.session.begin():
        loan = db.session.get(Loan, number)
        if loan is None:
            abort(404)
        found = db.session.get(Book, loan.book_id, with_for_update=True)
        if found is not None:
            found.lent = False
        db.session.delete(loan)
    return "", 204
