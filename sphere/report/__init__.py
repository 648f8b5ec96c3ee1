"""From CSVs to what people read: summaries, tables, figures, claims, headlines.

Imports no torch and no study: it draws what lies on the disk. May import ``evaluation`` (column names), ``config``,
``files`` and the ground.
"""
