"""A call: its request, the operations that send it, and its answer, read whole or from a stream."""
