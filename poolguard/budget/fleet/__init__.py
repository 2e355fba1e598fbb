"""The ledger that the hosts of a fleet share: advisory locks in PostgreSQL, and nothing else."""
