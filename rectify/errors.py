"""Errors that mean more to a workflow than their text; imports nothing, so every module may."""


class PassingError(ValueError):
    """A fault of the machine that runs a job, not of its user: another attempt may go well."""
