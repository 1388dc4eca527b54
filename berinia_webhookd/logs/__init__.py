"""The unified logs: JSON lines, personal data masked, in files that may be rotated."""
