"""Adversarial tests of a series of checkpoints before a release: attacks, judges, plans, the decision."""
