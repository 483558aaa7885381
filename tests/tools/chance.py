"""What is left to chance: in the tests nothing, in `make fuzz` everything that follows from its seed."""

import os

SEED = int(os.environ.get("FUZZ_SEED", "0"))
FIXED = SEED == 0
