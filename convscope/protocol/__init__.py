"""What the service and the workers say to each other: requests, results, jobs, cards, keys."""
