"""Dispatch: claim entries, attempt them, retry or mark them dead; one file per transport."""
