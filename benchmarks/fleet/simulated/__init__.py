"""A fleet in simulated time, whose hosts decide by the product's own ``Policy``."""
