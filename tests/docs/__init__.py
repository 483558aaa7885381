"""Tests of the documents: generated parts are current, and the rest is checked against the code."""
