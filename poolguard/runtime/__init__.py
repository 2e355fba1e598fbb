"""A guard while it is open: from its settings over plan and ledger to a warm pool."""
