"""`lopt evaluate`."""

EXAMPLES = ()


def command() -> None:
    """x"""
