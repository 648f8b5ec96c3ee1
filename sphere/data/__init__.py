"""What is edited: records of CounterFact, zsRE, MQuAKE and RippleEdits, streams drawn from them, downloads, facts, the
fictional world.

May import ``config``, ``files``, ``models`` and what is below.
"""
