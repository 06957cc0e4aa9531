"""Result files and tables: declared once, written with a description, checked when read."""
