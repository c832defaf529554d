"""Evaluation of the micro family: held-out scenes, sampled in the real host, scored by a judge."""
