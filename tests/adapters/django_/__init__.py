"""The Django adapter, with a small project of its own."""
