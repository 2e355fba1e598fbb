"""The pool: thin shells over psycopg_pool's two classes, and the pure decisions that both share.

Nothing is imported here: a worker may have to be patched before psycopg is.
"""
