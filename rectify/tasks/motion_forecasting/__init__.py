"""Motion forecasting: see README.md next to this file."""
