"""How well `autoaccel profile` repeats, and how long it takes."""
