"""The ledger that the processes of one host share: a file in the runtime folder, and its locks."""
