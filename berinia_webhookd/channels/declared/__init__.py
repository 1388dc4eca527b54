"""Channels that are declared in the file: their proof, their events and their answers."""
