"""Support for tests: databases, private servers, gates, models and oracles."""
