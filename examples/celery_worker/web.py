"""The web part: it writes letters down, and has them delivered."""

from typing import Any

from flask import Flask, abort, request
from psycopg.rows import dict_row
from tasks import deliver  # type: ignore[import-not-found]

from poolguard.flask import PoolGuard

app = Flask(__name__)
db = PoolGuard(app)


@app.get("/letters")
def letters() -> dict[str, Any]:
    """The hundred latest letters, and how often each was delivered."""
    query = (
        "SELECT id, recipient, count(letter_id) AS delivered FROM letters"
        " LEFT JOIN deliveries ON letter_id = id GROUP BY id ORDER BY id DESC LIMIT 100"
    )
    with db.connection.cursor(row_factory=dict_row) as cursor:
        return {"letters": cursor.execute(query).fetchall()}


@app.get("/letters/<int:number>")
def letter(number: int) -> dict[str, Any]:
    """One letter, or 404."""
    query = "SELECT id, recipient, text FROM letters WHERE id = %s"
    with db.connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(query, (number,)).fetchone()
    return {"letter": found or abort(404)}


@app.post("/letters")
def write() -> tuple[dict[str, Any], int]:
    """Write ``{"to": "<name>", "text": "<text>"}``; it is delivered in a moment."""
    new = request.get_json()
    insert = "INSERT INTO letters (recipient, text) VALUES (%s, %s) RETURNING id"
    with db.connection.transaction():
        [(number,)] = db.connection.execute(insert, (new["to"], new["text"])).fetchall()
    deliver.delay(number)  # after the commit: a task would not find the letter before
    return {"letter": number}, 202
