"""Known material: PDQ and exact hashes, their lists and signed updates, and the look-up of a picture."""
