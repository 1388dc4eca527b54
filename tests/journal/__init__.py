"""The journal: on disk before we say yes, each event once, in order."""
