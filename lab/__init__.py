"""The orchestrator: starts stacks, drives load, measures and reports."""
