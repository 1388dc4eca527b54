"""Agents for tests; agent hosts import them as top-level modules."""
