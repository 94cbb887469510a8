"""Where the command `guestledger` begins: signals are heeded first, for to read in all the rest takes a second or two."""

from guestledger.adapters.cli.stopping import stopping


def main() -> None:
    """The command's entry."""
    stopping.install()
    from guestledger.adapters.cli.main import main as run_command  # noqa: PLC0415 - after the signals

    run_command()


if __name__ == "__main__":
    main()
