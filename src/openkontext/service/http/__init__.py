"""What answers requests: the application, its routes and its page."""
