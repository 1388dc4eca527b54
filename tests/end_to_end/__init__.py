"""The daemon as a whole: real processes, real sockets, real agents."""
