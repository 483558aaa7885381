"""The ledger: durable state of all invocations, in SQLite or PostgreSQL."""
