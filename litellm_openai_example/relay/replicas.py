"""Replicas: the relay processes that share a ledger, by names that tell their machines."""

from __future__ import annotations

import os
import re
import secrets
import socket


def new_name() -> str:
    """Return the name of this process in the ledger, HOST:PID:RANDOM, which no process had before."""
    return f"{this_host()}:{os.getpid()}:{secrets.token_hex(4)}"


def this_host() -> str:
    """Return the name of this machine: in a container its id, in a pod the pod's name."""
    return re.sub(r"[^\w.-]", "-", socket.gethostname(), flags=re.ASCII)[:64] or "localhost"


def host_of(name: str) -> str:
    """Return the machine of a replica; empty for the names of older releases."""
    return name.rpartition(":")[0].rpartition(":")[0]
