"""The client side of deep_research: the tool, its loop, the relay's contract and client."""
