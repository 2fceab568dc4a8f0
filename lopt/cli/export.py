"""`lopt export`."""

EXAMPLES = ()


def command() -> None:
    """x"""
