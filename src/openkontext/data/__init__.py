"""Scenes, edits of them and their instructions: what nano is trained and judged on."""
