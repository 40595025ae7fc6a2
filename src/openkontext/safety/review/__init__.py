"""Manual review: the queue of held requests and its audit log."""
