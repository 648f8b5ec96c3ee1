"""Post-processes: from an update to an update, on any solver; ``sphere.editing.methods`` finds every file here.

Where several apply the order is RECT, PRUNE or REVIVE first and SPHERE last. These modules are imported while
a study is parsed, so they import torch only where they compute.
"""
