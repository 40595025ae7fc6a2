"""What works beside requests: workers with their engines, the keeper, webhooks."""
