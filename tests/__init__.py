"""Tests mirror the package; `end_to_end` and `system` drive the whole daemon."""
