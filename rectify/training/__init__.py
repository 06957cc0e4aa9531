"""Training one run: recipe, order of the items, loop, resumable state."""
