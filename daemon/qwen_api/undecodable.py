"""What msgspec raises for bytes that are not the JSON that was wanted: more than its own errors.

Bytes that are no UTF-8 and lists in lists in lists come as Python's errors, so `except msgspec.DecodeError` lets a
stranger's file end a task.
"""

from __future__ import annotations

import msgspec

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
