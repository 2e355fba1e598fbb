"""What this process is: a server's worker, how it boots, what it publishes and how it ends."""
