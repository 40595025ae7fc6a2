"""Filters that run elsewhere: Hive's moderation API, and any service that answers as `generic` says."""
