"""The frame of every contest: one stage, contenders in turn, rounds, and what is refused."""
