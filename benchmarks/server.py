"""The server that benchmarks share: one that asks for no password."""

from __future__ import annotations

from time import sleep

import psycopg
from psycopg.conninfo import make_conninfo

from poolguard.lab.postgres import PrivatePostgres

__all__ = ["trust"]


def trust(server: PrivatePostgres) -> None:
    """Ask for no password any more.

    Hashing it 4096 times, on both sides, would be done by the very cores that everything else runs
    on here, and make a burst of connects slower than over a network.
    """
    rules = server.folder / "data" / "pg_hba.conf"
    rules.write_text(rules.read_text().replace("scram-sha-256", "trust"))
    with server.connect() as admin:
        admin.execute("SELECT pg_reload_conf()")
    without = make_conninfo(server.conninfo(), password="")
    while True:  # a session that begins before the server has read the new rules has the old ones
        try:
            psycopg.connect(without).close()
        except psycopg.OperationalError:
            sleep(0.01)
        else:
            return
