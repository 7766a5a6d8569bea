"""The command ``compare``: a fair race on built-in or own data."""


def compare() -> None:
    """Race interchangeable parts on your data."""
