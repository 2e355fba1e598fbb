"""The budget: what the server grants, how it is divided, and who holds a slot of it."""
