"""The promises of the contract, held by tests."""
