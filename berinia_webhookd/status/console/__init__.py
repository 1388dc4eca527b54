"""The web console: what came, what became of it, and what to do, for the people who run the daemon.

It has its own application on its own socket, and does what the commands do by the same operations.
"""
