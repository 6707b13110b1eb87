"""`lab up`: the stacks and the Locust web UI, kept running to play with."""
