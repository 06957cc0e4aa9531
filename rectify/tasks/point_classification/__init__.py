"""Classification of point clouds: see README.md next to this file."""
