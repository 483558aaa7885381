"""The documents: what in them is generated, and what checks the rest."""
