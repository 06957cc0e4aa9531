"""From a configuration to runs and what each needs."""
