"""The project: settings, URLs, and what the servers call."""
