"""Container images of Python programs, straight from wheels."""
