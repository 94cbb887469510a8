"""The console script. Signals are handled before the slow imports begin."""

import gc
import sys

from guestledger.adapters.cli import streams
from guestledger.adapters.cli.stopping import stopping

_EXTRA = ("typer", "rich")


def main() -> None:
    """Run the command line."""
    stopping.install()
    streams.install()
    gc.disable()  # until `collect_garbage_rarely`: what imports make stays, and visiting it takes an eighth of their time
    try:
        from guestledger.adapters.cli.main import main as run_command
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(f"guestledger: the command line needs {error.name}: install guestledger[cli]\n")
        sys.exit(2)
    run_command()


if __name__ == "__main__":
    main()
