"""The loss in the tools of a framework."""
