"""Tries to make the daemon lose, mix up, leak or let in; what was tried is counted and printed."""
