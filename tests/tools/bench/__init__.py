"""Speed and size relative to the bare SDK, as ratios of interleaved measurements."""
