"""Tests of the reading endpoints."""
