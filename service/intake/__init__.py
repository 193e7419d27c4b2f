"""From a body to a submitted job: parts, forms, limits, submission.

May import service.dependencies and what stands below it.
"""
