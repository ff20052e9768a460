"""Other people's programs, set up so that tests can hold wain's images against them.

Every module here is a plain library that benchmarks use too; the fixtures over it are in `tests/real/conftest.py`.
"""
