"""Weights as points on a sphere: hyperspherical energy, principal directions, null spaces, linear algebra.

Pure mathematics: tensors in, tensors out, in float64. Knows no model, no file and no method; may import ``errors``
alone.
"""
