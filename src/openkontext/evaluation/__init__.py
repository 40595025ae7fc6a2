"""How well a model edits: held-out cases, an independent judge, and the report."""
