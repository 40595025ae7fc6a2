"""How well a model edits: held-out cases, an independent reader, and the report."""
