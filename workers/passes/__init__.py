"""Mathematics that several methods share: running a network with its calls in view, rules, statistics."""
