"""The unified logs: JSON lines without personal data, in files that may be rotated."""
