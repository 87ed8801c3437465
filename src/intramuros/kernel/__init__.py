"""Small utilities that every plane may use; imports nothing of ours."""
