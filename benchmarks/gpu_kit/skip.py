"""What a case says that cannot run here."""


class SkipCase(Exception):  # noqa: N818 - not an error
    """The case needs something that is absent; the message begins with "needs "."""
