"""The seed of random tests: fixed in `make test`, fresh in `make fuzz`."""

import os

SEED = int(os.environ.get("FUZZ_SEED", "0"))
FIXED = SEED == 0
