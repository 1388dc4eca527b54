"""What needs a real browser; run by `make test-console`."""
