"""The configuration, one file a section: what each key means, its default and its range. Frozen, no torch.

A section checks itself; what takes a study as a whole (``study.configuration``) is further up, where the methods are
known. May import ``files`` and what is below it.
"""
