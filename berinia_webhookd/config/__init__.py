"""Settings: read from every source, checked at once, frozen."""
