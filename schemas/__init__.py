"""What crosses a boundary: study, dictionary, plan, messages. Pure data and its validity.

Nothing here computes, reads a patient table or touches the network. pydantic and numpy only; flwr in `wire` alone.
"""
