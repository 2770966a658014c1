"""`python -m tests.faults.server serve`: the real service over seams that fail on purpose."""

import app.bus
import app.bus.local
import app.services
import app.storage
import app.warehouse
from app import cli
from tests.faults import seams


def main() -> None:
    """Put the failing seams behind their doors, before anything is opened."""
    app.storage.BACKENDS["file"] = (seams.__name__, "FaultyStorage", None)
    app.warehouse.BACKENDS["sqlite"] = (seams.__name__, "FaultyWarehouse", None)
    app.bus.BACKENDS["local"] = (seams.__name__, "FaultyBus", None)
    app.bus.local.Queue = seams.FaultyQueue  # type: ignore[misc]
    app.services.Workers = seams.FaultyWorkers  # type: ignore[misc]
    cli.main()


if __name__ == "__main__":
    main()
