"""The program, also as `python -m berinia_webhookd`."""

from berinia_webhookd import held_signals


def main() -> None:
    """Run one command; signals wait until it is known which."""
    held_signals.hold()
    from berinia_webhookd import cli  # noqa: PLC0415 - takes its time

    cli.main()


if __name__ == "__main__":
    main()
