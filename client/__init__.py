"""The partner site: tables, checks, policy and approvals, the runner and the agent with the gate.

The only side that reads a patient's row. Runs installed code alone, and never imports `server`.
"""
