"""`python -m berinia_webhookd`: the same as `berinia-webhookd`."""

from berinia_webhookd.cli import main

if __name__ == "__main__":
    main()
