"""The daemon among real programs of a Debian machine; run by `make test-system`."""
