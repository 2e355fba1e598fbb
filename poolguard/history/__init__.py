"""What a service has needed, minute by minute, and what it will likely need by that."""
