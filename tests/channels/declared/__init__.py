"""Tests of declared channels."""
