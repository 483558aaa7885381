"""Speed and size against the bare SDK: two things in one run, interleaved, as ratios."""
