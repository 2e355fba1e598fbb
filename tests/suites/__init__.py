"""Frameworks' own tests, run over our adapters: by hand, since they are fetched and take long."""
