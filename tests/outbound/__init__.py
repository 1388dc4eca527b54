"""Delivery: the dispatcher and its transports."""
