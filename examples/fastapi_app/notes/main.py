"""The API."""

from collections.abc import Sequence

from fastapi import FastAPI, HTTPException
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from .database import Session
from .models import NewNote, Note, Notebook

app = FastAPI(title="Notes")


@app.get("/notes")
async def notes(session: Session) -> Sequence[Note]:
    """The hundred latest notes."""
    return (await session.exec(select(Note).order_by(col(Note.id).desc()).limit(100))).all()


@app.get("/notes/{number}")
async def note(number: int, session: Session) -> Note:
    """One note, or 404."""
    if (found := await session.get(Note, number)) is None:
        raise HTTPException(404, "there is no such note")
    return found


@app.post("/notes", status_code=201)
async def write(new: NewNote, session: Session) -> Note:
    """Write a note, and begin its notebook where there is none of that name."""
    async with session.begin():
        begin = insert(Notebook).values(name=new.notebook).on_conflict_do_nothing()
        await session.exec(begin)
        found = await session.exec(select(Notebook.id).where(Notebook.name == new.notebook))
        note = Note(notebook_id=found.one(), text=new.text)
        session.add(note)
    return note
