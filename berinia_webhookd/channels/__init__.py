"""Channels: what providers send is verified, decoded, validated and normalised, without I/O."""
