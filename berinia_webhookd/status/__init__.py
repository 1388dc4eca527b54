"""Answers about all that: health, metrics, logs."""
