"""What is kept: jobs and their events, submissions, comparisons, API keys, webhooks."""
