"""What demonstrations, tests and benchmarks need and an installation does not."""
