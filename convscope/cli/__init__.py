"""What a person runs: `convscope serve | api | worker | models | settings | run`."""
