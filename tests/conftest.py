"""What all tests share."""

pytest_plugins = ["tests.fixtures.stack", "tests.fixtures.service"]
