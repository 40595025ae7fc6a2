"""Releasing a model: what must be known of it before, its card, and the signed list of its files."""
