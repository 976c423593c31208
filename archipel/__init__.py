"""The face of the project: the command `archipel` and what a notebook imports.

Puts the sides together and decides nothing of its own.
"""
