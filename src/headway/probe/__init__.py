"""A real endpoint: what it says of itself, traffic sent to it, its own metrics meanwhile, and what came back.

`nouns` says what the others speak of.
"""
