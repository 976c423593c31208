"""The mathematics: every method as local (a site's summand), combine (the sum) and finish (the estimate).

Arrays in, arrays out: no files, no network, no Flower. The only package that may import torch, and only where
a network is trained. Knows `schemas` and nothing else of ours.
"""
