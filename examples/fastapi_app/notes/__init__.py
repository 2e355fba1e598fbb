"""Notebooks and notes."""
