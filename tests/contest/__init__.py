"""The frame of the contests, their contenders, and what they write."""
