"""`lopt show`."""

EXAMPLES = ()


def command() -> None:
    """x"""
