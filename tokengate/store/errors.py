"""The one error of this package."""


class StoreError(Exception):
    """The store cannot serve as it is set up; the message says what to change, and never a password."""
