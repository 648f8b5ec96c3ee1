"""Editing: solvers, post-processes, the methods made of them, and the batch loop that knows none of them by name.

``edit`` is the one call, ``loop`` the stream, ``state`` what it leaves; ``values``, ``keys`` and ``replay`` turn
requests into what a solver is given, ``stats`` and ``spectra`` take from text and weights what it needs beforehand. May
import ``data`` and what is below it.
"""
