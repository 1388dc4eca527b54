"""The web console, page by page."""
