"""Runs each file of ``migrations`` once, in the order of their names, over a plain connection."""

import os
from pathlib import Path

import psycopg

FOLDER = Path(__file__).parent / "migrations"

with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('migrations'))")  # one host at a time
    conn.execute("CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY)")
    done = {name for (name,) in conn.execute("SELECT name FROM migrations")}
    for file in sorted(FOLDER.glob("*.sql")):
        if file.name not in done:
            conn.execute(file.read_bytes())
            conn.execute("INSERT INTO migrations VALUES (%s)", (file.name,))
            print("migrated:", file.name)
