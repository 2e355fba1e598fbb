"""How a web page of the command line begins: one that needs no other file and runs no script."""

from __future__ import annotations

__all__ = ["head"]


def head(title: str, style: str) -> str:
    """All up to where the page's own content begins.

    Neither the *title* nor the *style* is escaped.
    """
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>"""
