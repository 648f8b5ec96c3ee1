"""How hard the tests of this folder try."""

import os

LONG = bool(os.environ.get("SPHERE_DRILL"))
"""Whether to try ten times as many inputs as in ``make test``."""
