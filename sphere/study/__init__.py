"""What makes runs a study: its whole configuration, its plan, provenance, tuning, and what each job does.

May import everything below it, and never ``report``. Only the command line and the workflow import it.
"""
