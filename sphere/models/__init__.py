"""A language model in memory: loading it, finding what is edited in it, tokens, hooks and batches.

Everything that depends on an architecture or a tokenizer is here and nowhere else. May import ``geometry`` and the
ground (``errors``, ``progress``, ``plain_yaml``).
"""
