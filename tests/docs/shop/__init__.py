"""The application of the page about the command line, which runs each of its commands."""
