"""Evaluation: of the micro family on held-out scenes by a judge, and of any model on the sets of
MS-Diffusion's paper."""
