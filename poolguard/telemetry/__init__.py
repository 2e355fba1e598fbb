"""Telemetry: the only importers of opentelemetry. The pool knows none of them."""
