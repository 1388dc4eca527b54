"""One file a step; each sets `schema.version` to its number, and holds what it makes: what
`journal/schema.py` says is of the newest version.

Older programs go on working on a newer schema, so steps only add: tables, indexes, and columns that
may be empty. A step that must do more sets `schema.oldest_program`, which shuts older ones out.
"""
