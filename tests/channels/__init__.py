"""Meaning: what each provider sends, proven and read."""
