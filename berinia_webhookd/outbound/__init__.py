"""Delivery: claim, attempt, retry, bury; one file a transport."""
