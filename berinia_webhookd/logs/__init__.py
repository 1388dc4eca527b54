"""The unified logs: what is said, without personal data, into files that may be rotated."""
