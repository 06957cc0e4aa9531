"""Questions asked from a place in a room: see README.md next to this file."""
