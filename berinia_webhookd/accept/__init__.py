"""HTTP: a stranger's request made safe to look at."""
