"""Solvers: from keys, residuals and statistics to a weight update; ``sphere.editing.methods`` finds every file here.

A solver is a frozen settings object with a ``solve`` (closed form) or ``fit`` (gradient) method. These modules
are imported while a study is parsed, so they import torch only where they compute.
"""
