"""Memory: on disk before we say yes; each event once."""
