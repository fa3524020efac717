"""Models of the tests, one module for each database schema."""
