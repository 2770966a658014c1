"""What goes wrong in a worker, with a canary wherever one can be said."""

import builtins
import logging
import os
import sys
import time
import warnings

from tests.system.e2e.canaries import WORD

CANARY = WORD.decode()


def task(kind: str) -> None:
    """Say a canary in every way there is, then end as `kind` says; in a worker."""
    print(CANARY)
    print(CANARY, file=sys.stderr)
    os.write(2, WORD)
    warnings.warn(CANARY, stacklevel=1)
    logging.getLogger("pydicom").error(CANARY)
    logging.getLogger("dicomlake").critical(CANARY)
    if kind == "sleep":
        time.sleep(60)
    if kind == "abort":
        os.abort()
    raise getattr(builtins, kind)(CANARY)
