"""Everything between a patient's row and the wire: gate, ledger, secure sum, noise and accountant.

Small enough for a security review in an afternoon. Knows `schemas` and nothing else of ours.
"""
