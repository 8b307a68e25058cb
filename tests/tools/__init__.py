"""Documentation, command line, benchmarks, fuzzer, release."""
