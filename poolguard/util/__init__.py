"""What every room may use: the clock, logs, connection strings and the runtime folder."""
