"""Who uses the service: accounts, their end users, terms, misuse, and the audit log."""
