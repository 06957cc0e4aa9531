"""From measurements to tables and figures: frames in, frames and figures out, no torch."""
