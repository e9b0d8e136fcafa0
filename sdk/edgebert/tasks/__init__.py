"""What differs from task to task: the head, what logits mean, the metric."""
