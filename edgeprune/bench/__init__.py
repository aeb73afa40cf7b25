"""Comparing what personalisation gives with what else could be done with the same samples."""
