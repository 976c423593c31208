"""Mathematics: arrays in, arrays out. Every method is `local`, `combine` and `finish` (see `models.step`).

No files, no network, no Flower, no patient table: a step can be read, and tested, on its own.
"""
