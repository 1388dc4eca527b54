"""The unified logs: whole lines in the right files, and no person in them."""
