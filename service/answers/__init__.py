"""What is answered about a job: its view, its result, waiting for it.

May import service.intake and what stands below it.
"""
