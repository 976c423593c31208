"""The hub: rounds, checkpoints, the Flower server app, the launcher, and the registry of runs in SQL.

Sees sums and never a patient table, so neither pandas nor pyarrow is imported here. Never imports `client`.
"""
