"""What no mutant may do, done on purpose; here, because a worker finds what it runs by import."""

import hashlib
import os
import signal
import time

from app.model.errors import BadDataset, NotDicom, permanent
from tests.system.fuzz.subjects import SUBJECTS


def first_mutants(name):
    one = SUBJECTS[name]
    made = b"".join(one.spoil(one.seeds(), name, number) for number in range(20))
    return hashlib.sha256(made).hexdigest()


def crash(data):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(data):
    time.sleep(60)


def devour(data):
    return str(len(bytes(4 << 30)))


def stumble(data):
    return {}[data]


def stumble_into_the_net(data):
    with permanent(BadDataset):
        return {}[data]


def refuse(data):
    raise NotDicom("no seed is that")


def decode_badly(data):
    with permanent(BadDataset):
        return str(int("no number"))


def decode(data):
    import textwrap

    with permanent(BadDataset):
        return textwrap.dedent(data)  # of bytes it is a TypeError, from where we say the decoder is
