"""What the tests of the workflow work with; its fixtures are everybody's (tests/conftest.py)."""

from workplace import ROOT, Run, Workplace

__all__ = ["ROOT", "Run", "Workplace"]
