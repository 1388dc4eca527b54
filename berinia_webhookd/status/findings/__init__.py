"""Checks of an installation that need no command line."""
