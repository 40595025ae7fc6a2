"""The addresses of the service, by whom they serve."""
