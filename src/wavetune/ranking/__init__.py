"""Recipes ranked on the same data, model, cell and seeds: what each costs, how good it gets, what disturbs it."""
