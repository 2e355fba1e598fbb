"""The pool: a core that owns every connection, and a sync and an async shell around it.

Nothing is imported here: a worker may have to be patched before psycopg is.
"""
