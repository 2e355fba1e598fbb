"""The budget: what the server grants, how it is divided, and which slots of it are held."""
