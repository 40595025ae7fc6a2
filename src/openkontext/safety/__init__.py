"""Filters: what may be asked for, handed in and handed out."""
