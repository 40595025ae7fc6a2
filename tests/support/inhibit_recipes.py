"""A recipe of `openkontext inhibit` that takes seconds on a tiny model."""

RECIPE = """
stage = "inhibit"
[inhibit]
concept = "star"
method = "anchor"
rounds = 2
steps = 1
batch_size = 1
cases = 1
others = 4
attacks = 1
attack_steps = 1
rank = 2
targets = ["attn.to_q"]
learning_rate = 0.01
[run]
log_steps = 1
"""
