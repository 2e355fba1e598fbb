"""The tables, and what the API takes and answers."""

from sqlmodel import Field, SQLModel


class Notebook(SQLModel, table=True):
    """Where notes are kept."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)


class Note(SQLModel, table=True):
    """A thought."""

    id: int | None = Field(default=None, primary_key=True)
    notebook_id: int = Field(foreign_key="notebook.id")
    text: str


class NewNote(SQLModel):
    """A note that is to be written into the notebook of that name."""

    notebook: str
    text: str
