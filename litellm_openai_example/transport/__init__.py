"""The transport of one request: retries, deadlines, certificates and proxies, bounded bodies."""
