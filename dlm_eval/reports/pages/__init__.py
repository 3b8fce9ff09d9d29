"""Results as web pages."""
