"""Things broken on purpose, and what `doctor` says of them."""
