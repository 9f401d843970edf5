"""The one stream of random numbers that torch has for a process, whose threads draw from it in turns."""

from __future__ import annotations

import threading

one_stream = threading.RLock()
"""Held by whoever seeds torch for a block, or draws from what was seeded: another thread must not do so in between."""
