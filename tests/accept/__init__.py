"""Tests of the receiving stage, on real sockets."""
