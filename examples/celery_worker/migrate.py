"""Makes the tables, where they are not there yet, over a plain connection."""

import os

import psycopg

TABLES = """
    CREATE TABLE IF NOT EXISTS letters (
        id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
        recipient text NOT NULL,
        text text NOT NULL
    );
    CREATE TABLE IF NOT EXISTS deliveries (
        letter_id int PRIMARY KEY REFERENCES letters,
        at timestamptz NOT NULL DEFAULT now()
    );
"""

with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
    conn.execute(TABLES)
