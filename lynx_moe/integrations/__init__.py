"""Doors into other people's trainers. Nothing here imports them: they are given what they ask for, and call us."""
