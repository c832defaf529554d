"""Training of adapters for real checkpoints, on pictures of one's own, in the host's model code."""
