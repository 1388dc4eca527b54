"""One file a step; each sets `schema.version` to its number."""
