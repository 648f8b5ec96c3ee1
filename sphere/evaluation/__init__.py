"""A model and records in, numbers out: editing metrics, free generation, general ability, neurons.

May import ``editing`` and what is below it; knows no study.
"""
