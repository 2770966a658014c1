"""`python -m tests.system.faults.server serve`: the real service over seams that fail on purpose."""

import app.announce
import app.bus
import app.bus.local.bus
import app.forward.encoded
import app.services
import app.storage
import app.warehouse
from app.cli import commands
from tests.system.faults import seams


def main() -> None:
    """Put the failing seams behind their doors, before anything is opened."""
    app.storage.BACKENDS["file"] = (seams.__name__, "FaultyStorage", None)
    app.warehouse.BACKENDS["sqlite"] = (seams.__name__, "FaultyWarehouse", None)
    app.bus.BACKENDS["local"] = (seams.__name__, "FaultyBus", None)
    app.announce.Announcers.announce = seams.announce  # type: ignore[method-assign]
    app.forward.encoded.EncodedFiles.forward = seams.forward  # type: ignore[method-assign]
    app.bus.local.bus.Queue = seams.FaultyQueue  # type: ignore[misc]
    app.services.Workers = seams.FaultyWorkers  # type: ignore[misc]
    commands.main()


if __name__ == "__main__":
    main()
