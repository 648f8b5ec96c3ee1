"""Facts of the real world in tables, and edit records in CounterFact's and zsRE's own schemas made of them.

``relations/`` has a file a relation: its source, statements and questions about it, and its facts by object. ``tables``
reads them, ``records`` makes records, ``geonames`` writes those that GeoNames knows. Which facts a model knows,
``evaluation.knowledge`` asks it.
"""
