"""Meaning, without I/O: verify, decode, validate, normalise; one file a provider."""
