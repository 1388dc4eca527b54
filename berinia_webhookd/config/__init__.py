"""Settings: read from every source, checked together, frozen."""
