"""What is edited: records of CounterFact and zsRE, streams drawn from them, downloads, and the fictional world.

May import ``config``, ``files``, ``models`` and what is below.
"""
