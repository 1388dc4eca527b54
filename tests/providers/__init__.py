"""Our proofs beside those of the providers' own libraries: `make test-providers`."""
