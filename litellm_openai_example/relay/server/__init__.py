"""The relay server: research that is started once, runs to its end, and can be read again."""
