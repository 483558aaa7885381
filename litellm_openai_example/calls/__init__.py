"""Requests out, answers read, without I/O of their own."""
